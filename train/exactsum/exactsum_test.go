package exactsum

import (
	"bytes"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func values(t *rapid.T) []float64 {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 {
		m := rapid.Float64Range(-1, 1).Draw(t, "m")
		return math.Ldexp(m, rapid.IntRange(-1080, 1000).Draw(t, "e"))
	}), 0, 40).Draw(t, "values")
}

func TestSumIsExactInAnyOrderAndSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		xs := values(t)
		exact := new(big.Float).SetPrec(5000)
		var whole, left, right Sum
		for i, x := range xs {
			exact.Add(exact, big.NewFloat(x).SetPrec(5000))
			whole.Add(x)
			if i%3 == 0 {
				left.Add(x)
			} else {
				right.Add(x)
			}
		}
		want, _ := exact.Float64()
		if got := whole.Float64(); got != want {
			t.Fatalf("sum of %v: got %v, want %v", xs, got, want)
		}
		rand.Shuffle(len(xs), func(i, j int) { xs[i], xs[j] = xs[j], xs[i] })
		var shuffled Sum
		for _, x := range xs {
			shuffled.Add(x)
		}
		right.Merge(left)
		a, _ := whole.AppendBinary(nil)
		b, _ := shuffled.AppendBinary(nil)
		c, _ := right.AppendBinary(nil)
		if !bytes.Equal(a, b) || !bytes.Equal(a, c) {
			t.Fatalf("encodings differ:\n%x\n%x\n%x", a, b, c)
		}
		back, rest, err := Decode(append(a, 7))
		if err != nil || len(rest) != 1 || back.Float64() != want {
			t.Fatalf("decode: %v, %d bytes left, %v; want %v", err, len(rest), back.Float64(), want)
		}
	})
}

func TestNotFinite(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		xs   []float64
		want float64
	}{{[]float64{1, inf}, inf}, {[]float64{-inf, 2}, -inf}, {[]float64{inf, -inf}, math.NaN()}, {[]float64{math.NaN()}, math.NaN()}} {
		var s, m Sum
		for _, x := range c.xs {
			s.Add(x)
			var one Sum
			one.Add(x)
			m.Merge(one)
		}
		for _, got := range []Sum{s, m} {
			if v := got.Float64(); got.Finite() || v != c.want && !(math.IsNaN(v) && math.IsNaN(c.want)) {
				t.Errorf("sum of %v: got %v finite %v, want %v", c.xs, v, got.Finite(), c.want)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	var s Sum
	s.Add(-1.5)
	s.Add(1e300)
	b, _ := s.AppendBinary(nil)
	f.Add(b)
	f.Add([]byte{0, 66, 1, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		s, _, err := Decode(b)
		if err == nil {
			s.Add(1)
			s.Merge(s)
			_ = s.Float64()
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	var s Sum
	for i := range b.N {
		s.Add(float64(i) * 1e-7)
	}
}
