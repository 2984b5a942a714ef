#include "attend_many.cuh"

KERNEL_OCCUPANCY(attend_many_wide_128, ATTEND_THREADS, 2, AttendArgs) { attend_many<128, 128, true>(a); }
