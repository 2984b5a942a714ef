#include "attend_latent.cuh"

KERNEL_OCCUPANCY(attend_few_latent_wide, ATTEND_THREADS, 2, AttendArgs) { attend_few_latent<true>(a); }

KERNEL_OCCUPANCY(attend_many_latent_wide, ATTEND_THREADS, 2, AttendArgs) { attend_many_latent<true>(a); }
