#include "attend_few.cuh"

KERNEL_OCCUPANCY(attend_few_f16_64, ATTEND_THREADS, 4, AttendArgs) { attend_few_f16<64>(a); }
