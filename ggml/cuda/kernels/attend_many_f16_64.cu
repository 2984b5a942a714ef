#include "attend_many.cuh"

KERNEL_OCCUPANCY(attend_many_f16_64, ATTEND_THREADS, 3, AttendArgs) { attend_many<64, 64, false>(a); }
