#include "attend_few_f16.cuh"

KERNEL_OCCUPANCY(attend_few_f16_128, ATTEND_THREADS, 3, AttendArgs) { attend_few<FewF16<128>, 128, 8>(a); }
