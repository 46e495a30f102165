package kerneltest

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// guard is the number of elements, or blocks of them, on each side of a buffer that no kernel may touch: more
// than one register block of any of them.
const guard = 96

const poison = 0xff // a byte; as f32, bf16, f16 and f64 it repeats to a NaN, as i32 to -1

// The functions that only crunch numbers are marked go:norace: they run in one goroutine, and the suite runs under the
// race detector for what is around them.

// A Rig is one case's Backend, stream, buffers and random numbers, the same in every run.
type Rig struct {
	*rand.Rand

	t        testing.TB
	b        kernels.Backend
	s        kernels.Stream
	what     string // what is being checked, for messages
	live     []placed
	taken    int
	readings []reading
	first    bool // nothing to compare with yet but the reference
}

type placed struct {
	mem kernels.Memory
	buf kernels.Buffer
}

type reading struct {
	what string
	bits []byte
}

func newRig(t testing.TB, b kernels.Backend, name string) *Rig {
	h := fnv.New64a()
	h.Write([]byte(name))
	s, err := b.NewStream(name)
	if err != nil {
		t.Fatalf("new stream: %v", err)
	}
	return &Rig{Rand: rand.New(rand.NewPCG(h.Sum64(), 1)), t: t, b: b, s: s, what: name}
}

// First reports whether this is a case's first run, which Within compares with the reference. The
// later ones only have to repeat its bits: a case may leave an expensive reference out, as nil.
func (r *Rig) First() bool { return r.first }

// Begin frees the buffers of the variant before and names the next one.
func (r *Rig) Begin(format string, a ...any) {
	r.release()
	r.what = fmt.Sprintf(format, a...)
}

// Uniform is n numbers in [-1, 1).
//
//go:norace
func (r *Rig) Uniform(n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = 2*r.Float64() - 1
	}
	return v
}

// Normal is n numbers of deviation sigma.
//
//go:norace
func (r *Rig) Normal(n int, sigma float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = sigma * r.NormFloat64()
	}
	return v
}

// In is a buffer of type dt with the given values, rounded, and the values as they are after it.
func (r *Rig) In(dt kernels.DType, values []float64) (kernels.Buffer, []float64) {
	r.t.Helper()
	b := r.place(dt, len(values))
	raw := encode(dt, values)
	if err := r.s.Upload(b, raw); err != nil {
		r.t.Fatalf("%s: upload: %v", r.what, err)
	}
	return b, decode(dt, raw)
}

// IDs is an i32 buffer.
func (r *Rig) IDs(values []int32) kernels.Buffer {
	r.t.Helper()
	f := make([]float64, len(values))
	for i, v := range values {
		f[i] = float64(v)
	}
	b, _ := r.In(kernels.I32, f)
	return b
}

// Out is a buffer of n elements that hold NaN: what an Op forgets to write is found.
func (r *Rig) Out(dt kernels.DType, n int) kernels.Buffer {
	r.t.Helper()
	return r.place(dt, n)
}

// place allocates poisoned memory around and under a buffer, at an offset that is aligned to the
// element only.
func (r *Rig) place(dt kernels.DType, n int) kernels.Buffer {
	r.t.Helper()
	w := int64(dt.Bytes())
	r.taken++
	before := guard + int64(r.taken%5)
	kind := kernels.Device
	if r.taken%3 == 0 {
		kind = kernels.Host
	}
	m, err := r.b.Alloc(kind, (before+int64(n/dt.Block())+guard)*w)
	if err != nil {
		r.t.Fatalf("%s: %v", r.what, err)
	}
	all, err := kernels.NewBuffer(m, 0, int(m.Bytes()), kernels.U8)
	if err != nil {
		r.t.Fatalf("%s: %v", r.what, err)
	}
	if err := r.s.Upload(all, bytes.Repeat([]byte{poison}, all.Len())); err != nil {
		r.t.Fatalf("%s: upload: %v", r.what, err)
	}
	b, err := kernels.NewBuffer(m, before*w, n, dt)
	if err != nil {
		r.t.Fatalf("%s: %v", r.what, err)
	}
	r.live = append(r.live, placed{m, b})
	return b
}

// Launch runs op, which must be accepted.
func (r *Rig) Launch(op kernels.Op) {
	r.t.Helper()
	if err := r.s.Launch(op); err != nil {
		r.t.Fatalf("%s: launch: %v", r.what, err)
	}
}

// Fails runs op, which must be refused when it is launched or when it runs.
func (r *Rig) Fails(op kernels.Op) {
	r.t.Helper()
	err := r.s.Launch(op)
	if sync := r.s.Sync(r.t.Context()); err == nil {
		err = sync
	}
	if err == nil {
		r.t.Errorf("%s: no error", r.what)
	}
}

// Read waits for the stream and returns a buffer's values. Its bits are compared between runs.
func (r *Rig) Read(b kernels.Buffer) []float64 {
	r.t.Helper()
	bits := r.download(b)
	r.readings = append(r.readings, reading{r.what, bits})
	return decode(b.Type(), bits)
}

func (r *Rig) download(b kernels.Buffer) []byte {
	r.t.Helper()
	bits := make([]byte, b.Bytes())
	if err := r.s.Download(bits, b); err != nil {
		r.t.Fatalf("%s: download: %v", r.what, err)
	}
	if err := r.s.Sync(r.t.Context()); err != nil {
		r.t.Fatalf("%s: sync: %v", r.what, err)
	}
	return bits
}

// Within reads b and wants |b[i] - want[i]| <= tol(i), and NaN or an infinity where want has it.
func (r *Rig) Within(name string, b kernels.Buffer, want []float64, tol func(i int) float64) {
	r.t.Helper()
	got := r.Read(b)
	if !r.first {
		return
	}
	if i, bad := off(got, want, tol); bad > 0 {
		r.t.Errorf("%s: %s[%d] = %v, want %v within %.3g; %d of %d elements are off", r.what, name, i, got[i], want[i],
			tol(i), bad, len(want))
	}
}

// off is the first element that is not as wanted, and how many are not.
//
//go:norace
func off(got, want []float64, tol func(i int) float64) (first, bad int) {
	for i := len(want) - 1; i >= 0; i-- {
		g, w := got[i], want[i]
		if math.Abs(g-w) <= tol(i) || g == w || math.IsNaN(g) && math.IsNaN(w) {
			continue
		}
		first = i
		bad++
	}
	return first, bad
}

// Exactly reads b and wants these bits.
func (r *Rig) Exactly(name string, b kernels.Buffer, want []float64) {
	r.t.Helper()
	r.Within(name, b, want, func(int) float64 { return 0 })
}

// release checks the guards of all buffers and frees them.
func (r *Rig) release() {
	r.t.Helper()
	for _, p := range r.live {
		all, err := kernels.NewBuffer(p.mem, 0, int(p.mem.Bytes()), kernels.U8)
		if err != nil {
			r.t.Fatalf("%s: %v", r.what, err)
		}
		raw := r.download(all)
		lo, hi := int(p.buf.Offset()), int(p.buf.Offset()+p.buf.Bytes())
		if at := written(raw, lo, hi); at >= 0 {
			r.t.Errorf("%s: byte %d was written, outside a buffer's [%d, %d)", r.what, at, lo, hi)
		}
		if err := p.mem.Free(); err != nil {
			r.t.Errorf("%s: free: %v", r.what, err)
		}
	}
	r.live = r.live[:0]
}

// written is the first byte outside [lo, hi) that is no longer poison, -1 when all are.
func written(raw []byte, lo, hi int) int {
	for i, c := range raw[:lo] {
		if c != poison {
			return i
		}
	}
	for i, c := range raw[hi:] {
		if c != poison {
			return hi + i
		}
	}
	return -1
}

func (r *Rig) close() {
	r.t.Helper()
	r.release()
	if err := r.s.Close(); err != nil {
		r.t.Errorf("%s: close stream: %v", r.what, err)
	}
}

// acts are the activation types.
var acts = []kernels.DType{kernels.F32, kernels.BF16}
