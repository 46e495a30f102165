// Package cpu is the Backend that computes with C on the machine's own cores: AVX-512, AVX2 and portable kernels
// chosen when it opens, matrix products from oneDNN when it is installed and from kernels of its own when not.
//
// Open a Backend, Alloc memory (through a kernels.Arena), Launch Ops on a Stream. An
// Op is done when Launch returns: a CPU has nothing to overlap with. Ops of one Backend run
// one at a time, each on all of its threads; open one Backend per worker.
//
// Results do not depend on the number of threads: every kernel is cut into tiles
// by its shapes alone, and one thread does a tile from beginning to end.
package cpu
