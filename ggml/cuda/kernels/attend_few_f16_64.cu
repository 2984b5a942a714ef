#include "attend_few_f16.cuh"

KERNEL_OCCUPANCY(attend_few_f16_64, ATTEND_THREADS, 4, AttendArgs) { attend_few<FewF16<64>, 64, 8>(a); }
