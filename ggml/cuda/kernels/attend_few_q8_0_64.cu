#include "attend_few_q8_0.cuh"

KERNEL_OCCUPANCY(attend_few_q8_0_64, ATTEND_THREADS, 4, AttendArgs) { attend_few<FewQ8<64>, 64, 4>(a); }
