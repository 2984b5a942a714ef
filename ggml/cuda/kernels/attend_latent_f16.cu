#include "attend_latent.cuh"

KERNEL_OCCUPANCY(attend_few_latent_f16, ATTEND_THREADS, 2, AttendArgs) { attend_few_latent<false>(a); }

KERNEL_OCCUPANCY(attend_many_latent_f16, ATTEND_THREADS, 2, AttendArgs) { attend_many_latent<false>(a); }
