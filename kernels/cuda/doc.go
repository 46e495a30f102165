// Package cuda is the Backend that computes on one NVIDIA GPU. It is built without CUDA: the kernels lie in a library,
// libzerofleet_cuda.so, that `make cuda` builds with nvcc from the .cu files of this folder and that Open opens at run time.
//
// Open a Backend, Alloc memory (through a kernels.Arena), Launch Ops on a Stream, Sync before reading a result. Launch returns
// when the work is enqueued. What only the data can tell, an id out of range, is an error of the stream's next Sync.
//
// A result depends on the shapes, the card and cuBLASLt's version: not on alignment, except that a product whose operands are not
// aligned to 16 bytes is made by a kernel of our own, and on nothing else. The optimizer and reduction kernels have the bits of
// kernels/cpu. A head is at most 256 wide.
//
// kernels/cudaemu compiles the same .cu files with g++ to a library that runs on the CPU: that is what the tests use where
// there is no GPU.
package cuda
