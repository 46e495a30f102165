package deferred_test

import (
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/deferred"
	"github.com/zerofleet/zerofleet/kernels/kerneltest"
)

func open(t testing.TB, threads int) kernels.Backend {
	t.Helper()
	b, err := cpu.Open(cpu.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	return deferred.New(b)
}

func TestConformance(t *testing.T) { kerneltest.Run(t, open) }
