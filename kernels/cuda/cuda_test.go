package cuda_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cuda"
	"github.com/zerofleet/zerofleet/kernels/cudaemu"
	"github.com/zerofleet/zerofleet/kernels/kerneltest"
)

// emulator is built once, however often that fails.
var emulator = sync.OnceValues(func() (string, error) { return cudaemu.Build(context.Background()) })

// library is the one that tests use: a GPU's when the environment names one, else the emulator.
func library(t testing.TB) string {
	t.Helper()
	if path := os.Getenv(cuda.LibraryVariable); path != "" {
		return path
	}
	path, err := emulator()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens device threads-1: of the emulator's two, the second does everything in the opposite order, which must not show.
func open(t testing.TB, threads int) kernels.Backend {
	t.Helper()
	b, err := cuda.Open(cuda.Options{Library: library(t), Device: (threads - 1) / 2})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) { kerneltest.Run(t, open) }
