package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var attentionCases = []Case{
	{"attention", runAttention},
	{"attention masks", runAttentionMasks},
	{"attention documents refused", runAttentionRefused},
	{"attention not finite", runAttentionNotFinite},
	{"cached attention", runCachedAttention},
	{"cached attention not finite", runCachedNotFinite},
}

// attentionShape is a shape and mask of attention, with what its references say.
type attentionShape struct {
	b, t, heads, kvHeads, width, window int
	scale                               float32
	first                               []int32 // DocStart
}

func (s *attentionShape) row() int   { return (s.heads + 2*s.kvHeads) * s.width }
func (s *attentionShape) group() int { return s.heads / s.kvHeads }

// low is the first token that token i of sequence b attends to.
func (s *attentionShape) low(b, i int) int {
	low := int(s.first[b*s.t+i])
	if s.window > 0 {
		low = max(low, i-s.window+1)
	}
	return low
}

// head are the places of a head's query, key and value in the row of token i of sequence b.
func (s *attentionShape) head(b, i, h int) (q, k, v int) {
	at := (b*s.t + i) * s.row()
	g := h / s.group()
	return at + h*s.width, at + (s.heads+g)*s.width, at + (s.heads+s.kvHeads+g)*s.width
}

// setScale is the usual one.
func (s *attentionShape) setScale() { s.scale = float32(1 / math.Sqrt(float64(s.width))) }

// dot is the sum of n products and of their magnitudes.
//
//go:norace
func dot(a, b []float64) (sum, magnitude float64) {
	for i := range a {
		p := a[i] * b[i]
		sum += p
		magnitude += max(p, -p) // |p|
	}
	return sum, magnitude
}

// forward is attention in float64, of the tokens from from on, with, per element, a bound on the error of an f32 kernel,
// u = 2^-24:
//
//   - A score x = scale*(q.k) is off by at most e = (K+2) u |scale| sum|q k|: a sum of K products in any order, then a scaling.
//   - A weight exp(x-m) has the relative error e, plus u|x-m| of the difference, plus 3u of an exp good to an ulp. Whenever a
//     running maximum moves, all weights so far are multiplied by exp(m-m'): u|m-m'| + 3u more. With X the greatest |x|, the
//     differences come to 2X each, and the maximum moves at most once per key, of which there are n:
//     eta = max(e) + (4X + 3n + 3) u.
//   - Sums over n keys, scaled at most n times: 2n u of the sum of magnitudes, in numerator and denominator alike; dividing, 2u.
//     So an output is off by at most 2 (eta + (2n+2) u) sum(P|v|).
//   - The log-sum-exp is off by the relative error of the sum of weights, eta + 2n u, and the roundings of m + log(l), where
//     |m| <= X: (2|lse| + X) u.
//
// 1.01 covers the second order. What underflows is far below: scores stay within 50 of each other.
//
//go:norace
func (s *attentionShape) forward(qkv []float64, from int) (out, outTol, lse, lseTol []float64) {
	n := s.b * s.t * s.heads
	out, outTol = make([]float64, n*s.width), make([]float64, n*s.width)
	lse, lseTol = make([]float64, n), make([]float64, n)
	x := make([]float64, s.t)
	magnitude := make([]float64, s.width)
	for b := range s.b {
		for h := range s.heads {
			for i := from; i < s.t; i++ {
				low := s.low(b, i)
				q, _, _ := s.head(b, i, h)
				top, eta, most := math.Inf(-1), 0.0, 0.0
				for j := low; j <= i; j++ {
					_, k, _ := s.head(b, j, h)
					v, m := dot(qkv[q:q+s.width], qkv[k:k+s.width])
					x[j] = v * float64(s.scale)
					top = math.Max(top, x[j])
					if math.IsInf(x[j], -1) {
						continue // a weight of 0, exactly
					}
					most = math.Max(most, math.Abs(x[j]))
					eta = math.Max(eta, float64(s.width+2)*halfUlpF32*m*math.Abs(float64(s.scale)))
				}
				keys := float64(i + 1 - low)
				eta += (4*most + 3*keys + 3) * halfUlpF32
				o := out[((b*s.t+i)*s.heads+h)*s.width:][:s.width]
				clear(magnitude)
				l := 0.0
				for j := low; j <= i; j++ {
					p := math.Exp(x[j] - top)
					l += p
					_, _, v := s.head(b, j, h)
					for e, value := range qkv[v : v+s.width] {
						o[e] += p * value
						magnitude[e] += p * max(value, -value)
					}
				}
				for e := range o {
					o[e] /= l
					outTol[((b*s.t+i)*s.heads+h)*s.width+e] = 1.01 * 2 * (eta + (2*keys+2)*halfUlpF32) * magnitude[e] / l
				}
				at := (b*s.heads+h)*s.t + i
				lse[at] = top + math.Log(l)
				lseTol[at] = 1.01 * (eta + (2*keys+2*math.Abs(lse[at])+most)*halfUlpF32)
			}
		}
	}
	return out, outTol, lse, lseTol
}

// backward is the gradient in float64, from the outputs and log-sum-exp that the kernel is given, with a bound as
// above:
//
//   - A weight P = exp(x - lse) has the relative error eta = e + (|x-lse| + 3) u.
//   - dP = dO.v is off by K u sum|dO v|, D = dO.O by K u sum|dO O|; dS = P (dP - D) scale by scale P times those two, and by
//     (eta + 3u) scale P (|dP|+|D|).
//   - dV = sum P dO, dK = sum dS q and dQ = sum dS k: each term's error, and one u of its magnitude for each of the terms that
//     are added, at most T times the group, and one more.
//
//go:norace
func (s *attentionShape) backward(qkv, out, lse, dout []float64) (want, tol []float64) {
	want, tol = make([]float64, len(qkv)), make([]float64, len(qkv))
	scale, w := float64(s.scale), s.width
	terms := float64(s.t*s.group()+1) * halfUlpF32
	for b := range s.b {
		for h := range s.heads {
			for i := range s.t {
				q, _, _ := s.head(b, i, h)
				at := ((b*s.t+i)*s.heads + h) * w
				do := dout[at : at+w]
				d, dMagnitude := dot(do, out[at:at+w])
				for j := s.low(b, i); j <= i; j++ {
					_, k, v := s.head(b, j, h)
					x, xMagnitude := dot(qkv[q:q+w], qkv[k:k+w])
					dp, dpMagnitude := dot(do, qkv[v:v+w])
					x = x*scale - lse[(b*s.heads+h)*s.t+i]
					eta := halfUlpF32 * (float64(w+2)*math.Abs(scale)*xMagnitude + math.Abs(x) + 3)
					p := math.Exp(x)
					if p == 0 {
						eta = 0 // exactly: the score is -inf
					}
					ds := p * (dp - d) * scale
					dsOff := p * math.Abs(scale) * ((eta+3*halfUlpF32)*(math.Abs(dp)+math.Abs(d)) +
						float64(w)*halfUlpF32*(dpMagnitude+dMagnitude))
					addTerm(want[v:v+w], tol[v:], p, p*(eta+terms), do)
					addTerm(want[k:k+w], tol[k:], ds, dsOff+terms*math.Abs(ds), qkv[q:q+w])
					addTerm(want[q:q+w], tol[q:], ds, dsOff+terms*math.Abs(ds), qkv[k:k+w])
				}
			}
		}
	}
	return want, tol
}

// addTerm adds weight*from, of which the weight is off by so much, to a sum and its tolerance.
//
//go:norace
func addTerm(sum, tol []float64, weight, off float64, from []float64) {
	for e, f := range from {
		sum[e] += weight * f
		tol[e] += 1.01 * off * max(f, -f)
	}
}

// within reads a buffer of a type and allows it tol and a rounding.
func (r *Rig) within(name string, b kernels.Buffer, want, tol []float64) {
	r.t.Helper()
	r.Within(name, b, want, func(i int) float64 {
		if b.Type() == kernels.BF16 {
			return tol[i] + halfUlpBF16*(math.Abs(want[i])+tol[i])
		}
		return tol[i]
	})
}

// oneAttention runs forward and backward on the values of qkv and dout.
func oneAttention(r *Rig, s attentionShape, dt kernels.DType, values, gradients []float64) {
	s.setScale()
	docStart := r.IDs(s.first)
	in, qkv := r.In(dt, values)
	rows, n := s.b*s.t, s.b*s.t*s.heads
	f := kernels.Attention{QKV: in, DocStart: docStart, Out: r.Out(dt, n*s.width), LSE: r.Out(kernels.F32, n),
		B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kvHeads, HeadDim: s.width, Window: s.window, Scale: s.scale}
	r.Launch(f)
	var out, outTol, lse, lseTol []float64
	if r.First() {
		out, outTol, lse, lseTol = s.forward(qkv, 0)
	}
	r.within("Out", f.Out, out, outTol)
	r.within("LSE", f.LSE, lse, lseTol)

	// The backward is given what the forward made, so that only its own error counts.
	o := kernels.AttentionBackward{DQKV: r.Out(dt, rows*s.row()), Delta: r.Out(kernels.F32, n), Out: f.Out, LSE: f.LSE, QKV: in,
		DocStart: docStart, B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kvHeads, HeadDim: s.width, Window: s.window, Scale: s.scale}
	var dout []float64
	o.DOut, dout = r.In(dt, gradients)
	r.Launch(o)
	var want, tol []float64
	if r.First() {
		want, tol = s.backward(qkv, r.Read(f.Out), r.Read(f.LSE), dout)
	} else {
		r.Read(f.Out)
		r.Read(f.LSE)
	}
	r.within("DQKV", o.DQKV, want, tol)
}

// random are inputs whose scores have a deviation of some two.
func (s *attentionShape) random(r *Rig) (qkv, dout []float64) {
	return r.Normal(s.b*s.t*s.row(), 1.4), r.Normal(s.b*s.t*s.heads*s.width, 1)
}

// documents cuts each sequence at odd places: one token, three, then some fifty at a time, shifted by the sequence.
func (s *attentionShape) documents() {
	s.first = make([]int32, s.b*s.t)
	for b := range s.b {
		start := 0
		for i := range s.t {
			if p := i - b; p == 1 || p == 4 || p > 4 && (p-4)%51 == 0 {
				start = i
			}
			s.first[b*s.t+i] = int32(start)
		}
	}
}

// runAttention has sizes around every blocking: less than a register block, one tile of queries, one more, and more than two.
func runAttention(r *Rig) {
	for _, t := range []int{1, 7, 64, 65, 130} {
		for _, width := range []int{8, 20, 64} {
			for _, group := range []int{1, 3} {
				for _, dt := range acts {
					s := attentionShape{b: 1, t: t, heads: max(2, group), kvHeads: max(2, group) / group, width: width, first: make([]int32, t)}
					r.Begin("T=%d K=%d H=%d G=%d %s", t, width, s.heads, s.kvHeads, dt)
					qkv, dout := s.random(r)
					oneAttention(r, s, dt, qkv, dout)
				}
			}
		}
	}
	for _, width := range []int{16, 33, 128} {
		s := attentionShape{b: 3, t: 97, heads: 4, kvHeads: 2, width: width, first: make([]int32, 3*97)}
		r.Begin("B=3 T=97 K=%d H=4 G=2", width)
		qkv, dout := s.random(r)
		oneAttention(r, s, kernels.F32, qkv, dout)
	}
}

// runAttentionMasks has windows, documents and both; and tokens each with a start of its own, which no packing makes but the
// contract allows.
func runAttentionMasks(r *Rig) {
	for _, t := range []int{7, 65, 130} {
		for _, window := range []int{0, 1, 5, 70} {
			for _, mask := range []string{"whole", "documents", "scattered"} {
				s := attentionShape{b: 2, t: t, heads: 3, kvHeads: 1, width: 20, window: window, first: make([]int32, 2*t)}
				switch mask {
				case "documents":
					s.documents()
				case "scattered":
					for i := range s.first {
						s.first[i] = int32(r.IntN(i%t + 1))
					}
				}
				dt := acts[(t+window)%2]
				r.Begin("T=%d window=%d %s %s", t, window, mask, dt)
				qkv, dout := s.random(r)
				oneAttention(r, s, dt, qkv, dout)
			}
		}
	}
}

func runAttentionRefused(r *Rig) {
	const t = 70
	for _, bad := range []struct{ at, first int32 }{{0, -1}, {66, 67}, {t + 3, 4}, {t + 5, t + 1}, {2*t - 1, -1 << 31}} {
		r.Begin("document of %d starts at %d", bad.at, bad.first)
		s := attentionShape{b: 2, t: t, heads: 2, kvHeads: 1, width: 8, first: make([]int32, 2*t)}
		s.first[bad.at] = bad.first
		docStart := r.IDs(s.first)
		qkv, dout := s.random(r)
		n := 2 * t * s.heads
		in, _ := r.In(kernels.F32, qkv)
		out, lse := r.Out(kernels.F32, n*s.width), r.Out(kernels.F32, n)
		r.Fails(kernels.Attention{QKV: in, DocStart: docStart, Out: out, LSE: lse, B: s.b, T: t, Heads: s.heads,
			KVHeads: s.kvHeads, HeadDim: s.width, Scale: 1})
		grad, _ := r.In(kernels.F32, dout)
		r.Fails(kernels.AttentionBackward{QKV: in, DocStart: docStart, Out: out, LSE: lse, DOut: grad,
			DQKV: r.Out(kernels.F32, len(qkv)), Delta: r.Out(kernels.F32, n), B: s.b, T: t, Heads: s.heads,
			KVHeads: s.kvHeads, HeadDim: s.width, Scale: 1})
	}
}

// runAttentionNotFinite: what is not finite is seen by those whose result depends on it, and by nobody else: not by the tokens before
// it, nor by the document beside it.
func runAttentionNotFinite(r *Rig) {
	const t, at = 130, 70
	for _, dt := range acts {
		for _, window := range []int{0, 9} {
			for part, name := range []string{"query", "key", "value", "gradient"} {
				for _, bad := range []float64{math.NaN(), math.Inf(1)} {
					s := attentionShape{b: 2, t: t, heads: 2, kvHeads: 1, width: 20, window: window}
					s.documents()
					r.Begin("%v in a %s, window=%d %s", bad, name, window, dt)
					qkv, dout := s.random(r)
					q, k, v := s.head(1, at, 1)
					switch part {
					case 0, 1, 2:
						qkv[[]int{q, k, v}[part]+3] = bad
					case 3:
						dout[((t+at)*s.heads+1)*s.width+3] = bad
					}
					oneAttention(r, s, dt, qkv, dout)
				}
			}
		}
	}
}

// oneCached compares the new tokens with the last rows of attention over the whole sequence.
func oneCached(r *Rig, s attentionShape, dt kernels.DType, past int, values []float64) {
	const room = 3 // rows of the cache that nothing touches
	s.setScale()
	s.b, s.first = 1, make([]int32, s.t)
	n, kv := s.t-past, s.kvHeads*s.width
	raw := decode(dt, encode(dt, values))
	keys, vals := r.Uniform((s.t+room)*kv), r.Uniform((s.t+room)*kv)
	for i := range past {
		_, k, v := s.head(0, i, 0)
		copy(keys[i*kv:], raw[k:k+kv])
		copy(vals[i*kv:], raw[v:v+kv])
	}
	o := kernels.CachedAttention{Out: r.Out(dt, n*s.heads*s.width), N: n, Past: past, Heads: s.heads, KVHeads: s.kvHeads,
		HeadDim: s.width, Window: s.window, Scale: s.scale}
	o.QKV, _ = r.In(dt, raw[past*s.row():])
	o.Keys, keys = r.In(dt, keys)
	o.Values, vals = r.In(dt, vals)
	r.Launch(o)
	var out, tol []float64
	if r.First() {
		out, tol, _, _ = s.forward(raw, past)
		out, tol = out[past*s.heads*s.width:], tol[past*s.heads*s.width:]
	}
	r.within("Out", o.Out, out, tol)
	for i := past; i < s.t; i++ {
		_, k, v := s.head(0, i, 0)
		copy(keys[i*kv:], raw[k:k+kv])
		copy(vals[i*kv:], raw[v:v+kv])
	}
	r.Exactly("Keys", o.Keys, keys)
	r.Exactly("Values", o.Values, vals)
}

func runCachedAttention(r *Rig) {
	for _, size := range []struct{ past, n int }{
		{0, 1}, {0, 7}, {0, 130}, {1, 1}, {63, 1}, {64, 1}, {129, 1}, {255, 1}, {256, 1}, {600, 1}, {300, 2}, {250, 13}, {5, 70},
	} {
		for i, width := range []int{8, 20, 64} {
			for _, group := range []int{1, 3} {
				for _, window := range [][]int{{0}, {0, 50}, {50}}[i] {
					s := attentionShape{t: size.past + size.n, heads: 2 * group, kvHeads: 2, width: width, window: window}
					dt := acts[(size.past+width/4)%2]
					r.Begin("%d after %d K=%d H=%d G=%d window=%d %s", size.n, size.past, width, s.heads, s.kvHeads, window, dt)
					oneCached(r, s, dt, size.past, r.Normal(s.t*s.row(), 1.4))
				}
			}
		}
	}
}

func runCachedNotFinite(r *Rig) {
	for _, size := range []struct{ past, n, at int }{{0, 70, 33}, {300, 1, 17}, {300, 1, 300}, {290, 20, 299}} {
		for part, name := range []string{"query", "key", "value"} {
			for _, window := range []int{0, 30} {
				s := attentionShape{t: size.past + size.n, heads: 2, kvHeads: 1, width: 20, window: window}
				r.Begin("%d after %d, NaN in the %s at %d, window=%d", size.n, size.past, name, size.at, window)
				values := r.Normal(s.t*s.row(), 1.4)
				q, k, v := s.head(0, size.at, 1)
				values[[]int{q, k, v}[part]+3] = math.NaN()
				oneCached(r, s, acts[part%2], size.past, values)
			}
		}
	}
}
