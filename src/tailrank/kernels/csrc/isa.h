// Which instruction sets this CPU and its operating system can run.
#pragma once

namespace tailrank {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

// AVX2 with FMA and F16C; AVX-512 with F, BW, CD, DQ and VL (x86-64-v3 and v4).
bool can_run(Isa isa);

}  // namespace tailrank
