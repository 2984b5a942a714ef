#include "attend_many.cuh"

KERNEL_OCCUPANCY(attend_many_wide_192, ATTEND_THREADS, 2, AttendArgs) { attend_many<192, 128, true>(a); }
