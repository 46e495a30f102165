package cpu_test

import (
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/kerneltest"
)

// settings are every way to compute that this machine has.
func settings(t testing.TB) map[string]cpu.Options {
	t.Helper()
	b := open(cpu.Options{})(t, 1)
	best := b.Caps().ISA
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	all := map[string]cpu.Options{"best": {}, "own products": {OwnProducts: true}}
	for _, isa := range []string{"portable", "avx2", "avx512"} {
		if isa == best {
			break
		}
		all[isa] = cpu.Options{ISA: isa}
	}
	return all
}

func open(o cpu.Options) kerneltest.Open {
	return func(t testing.TB, threads int) kernels.Backend {
		t.Helper()
		o.Threads = threads
		b, err := cpu.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestConformance(t *testing.T) {
	for name, o := range settings(t) {
		t.Run(name, func(t *testing.T) { kerneltest.Run(t, open(o)) })
	}
}
