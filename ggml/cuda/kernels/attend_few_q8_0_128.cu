#include "attend_few_q8_0.cuh"

KERNEL_OCCUPANCY(attend_few_q8_0_128, ATTEND_THREADS, 3, AttendArgs) { attend_few<FewQ8<128>, 128, 4>(a); }
