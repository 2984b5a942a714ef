#include "attend_few.cuh"

KERNEL_OCCUPANCY(attend_few_f16_128, ATTEND_THREADS, 3, AttendArgs) { attend_few_f16<128>(a); }
