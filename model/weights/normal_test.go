package weights_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/zerofleet/zerofleet/model/weights"
)

// TestQuantile: the distribution function undoes the quantile. With p = Phi(x), an error of
// e in x shows as phi(x)*e in p; 1e-14 relative to the smaller tail is above erfc's own.
func TestQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.Uint64Range(0, 1<<52-1).Draw(t, "k")
		if rapid.Bool().Draw(t, "tail") {
			k >>= rapid.IntRange(0, 51).Draw(t, "shift")
		}
		want := (float64(k) + 0.5) / (1 << 52)
		x := weights.Quantile(k)
		if got := math.Erfc(-x/math.Sqrt2) / 2; math.Abs(got-want) > 1e-13*want+1e-16 {
			t.Fatalf("Phi(quantile(%d)=%v): got %v, want %v", k, x, got, want)
		}
		if mirror := weights.Quantile(1<<52 - 1 - k); mirror != -x {
			t.Fatalf("quantile is not odd at %d: %v and %v", k, x, mirror)
		}
	})
	if x := weights.Quantile(0); x < -8.4 || x > -8.2 {
		t.Errorf("the smallest draw is %v, want about -8.29", x)
	}
}

func TestLogarithm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(1e-300, 1).Draw(t, "x")
		got, want := weights.Logarithm(x), math.Log(x)
		if math.Abs(got-want) > 4e-16*math.Abs(want) {
			t.Fatalf("log(%v): got %v, want %v", x, got, want)
		}
	})
}
