package deferred_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/deferred"
)

// A bed is a deferred Backend with two streams, two Host buffers in one allocation and a Device buffer.
type bed struct {
	t      *testing.T
	b      kernels.Backend
	s, two kernels.Stream
	x, y   kernels.Buffer // Host
	d      kernels.Buffer // Device
	inner  *spy
}

// spy keeps the inner memory within the test's reach.
type spy struct {
	kernels.Backend
	taken []kernels.Memory
}

func (s *spy) Alloc(kind kernels.Kind, bytes int64) (kernels.Memory, error) {
	m, err := s.Backend.Alloc(kind, bytes)
	s.taken = append(s.taken, m)
	return m, err
}

const n = 1000

func newBed(t *testing.T) *bed {
	t.Helper()
	c, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, inner: &spy{Backend: c}}
	b.b = deferred.New(b.inner)
	if b.s, err = b.b.NewStream("one"); err != nil {
		t.Fatal(err)
	}
	if b.two, err = b.b.NewStream("two"); err != nil {
		t.Fatal(err)
	}
	host, err := b.b.Alloc(kernels.Host, 2*4*n)
	b.ok(err)
	device, err := b.b.Alloc(kernels.Device, 4*n)
	b.ok(err)
	b.x, err = kernels.NewBuffer(host, 0, n, kernels.F32)
	b.ok(err)
	b.y, err = kernels.NewBuffer(host, 4*n, n, kernels.F32)
	b.ok(err)
	b.d, err = kernels.NewBuffer(device, 0, n, kernels.F32)
	b.ok(err)
	return b
}

func (b *bed) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) fails(err error, parts ...string) {
	b.t.Helper()
	if err == nil {
		b.t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			b.t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func (b *bed) sync(s kernels.Stream) {
	b.t.Helper()
	b.ok(s.Sync(b.t.Context()))
}

func (b *bed) event(s kernels.Stream) kernels.Event {
	b.t.Helper()
	e, err := s.Record()
	b.ok(err)
	return e
}

// close must find nothing left over.
func (b *bed) close() {
	b.t.Helper()
	b.ok(b.x.Mem().Free())
	b.ok(b.d.Mem().Free())
	b.ok(b.s.Close())
	b.ok(b.two.Close())
	b.ok(b.b.Close())
}

func value(raw []byte, i int) float64 {
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
}

func put(raw []byte, i int, v float32) {
	binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
}

func TestHostViewBeforeSync(t *testing.T) {
	b := newBed(t)
	b.ok(b.s.Launch(kernels.Fill{Dst: b.x, Value: 3}))
	_, err := b.x.Host()
	b.fails(err, "host view", `"fill" of stream one`, "missing Sync")
	_, err = b.x.Mem().Host()
	b.fails(err, "missing Sync")
	if _, err := b.y.Host(); err != nil {
		t.Errorf("the other buffer of the allocation: %v", err)
	}
	b.sync(b.s)
	raw, err := b.x.Host()
	b.ok(err)
	if v := value(raw, n-1); v != 3 {
		t.Errorf("after Sync: %v, want 3", v)
	}
	b.close()
}

func TestKeptViewBeforeSync(t *testing.T) {
	b := newBed(t)
	raw, err := b.x.Host()
	b.ok(err)
	b.ok(b.s.Launch(kernels.Fill{Dst: b.x, Value: 3}))
	if v := value(raw, 0); !math.IsNaN(v) {
		t.Errorf("a view kept from before shows %v, want NaN", v)
	}
	b.sync(b.s)
	if v := value(raw, 0); v != 3 {
		t.Errorf("after Sync: %v, want 3", v)
	}
	b.close()
}

func TestDownloadBeforeSync(t *testing.T) {
	b := newBed(t)
	b.ok(b.s.Launch(kernels.Fill{Dst: b.d, Value: 3}))
	raw := make([]byte, 4*n)
	b.ok(b.s.Download(raw, b.d))
	if v := value(raw, 0); !math.IsNaN(v) {
		t.Errorf("before Sync: %v, want NaN", v)
	}
	b.sync(b.s)
	if v := value(raw, 0); v != 3 {
		t.Errorf("after Sync: %v, want 3", v)
	}
	b.close()
}

func TestHostWriteWhileRead(t *testing.T) {
	b := newBed(t)
	raw, err := b.x.Host()
	b.ok(err)
	put(raw, 5, 1)
	b.ok(b.s.Copy(b.d, b.x))
	put(raw, 5, 2)
	b.fails(b.s.Sync(t.Context()), "the host wrote", `"copy" of stream one`, "src")

	put(raw, 5, 3) // the error ended that operation: from here on all is well
	b.ok(b.s.Copy(b.d, b.x))
	b.sync(b.s)
	put(raw, 5, 4)
	back := make([]byte, 4*n)
	b.ok(b.s.Download(back, b.d))
	b.sync(b.s)
	if v := value(back, 5); v != 3 {
		t.Errorf("the device has %v, want 3", v)
	}
	b.close()
}

// A writer enqueued behind a reader hides the host's view, which is no change by the host.
func TestReadThenWrittenInPlace(t *testing.T) {
	b := newBed(t)
	raw, err := b.x.Host()
	b.ok(err)
	put(raw, 7, 2)
	b.ok(b.s.Copy(b.d, b.x))
	b.ok(b.s.Launch(kernels.Add{Out: b.x, A: b.x, B: b.d}))
	b.ok(b.s.Launch(kernels.Add{Out: b.x, A: b.x, B: b.d}))
	b.sync(b.s)
	if v := value(raw, 7); v != 6 {
		t.Errorf("%v, want 6", v)
	}
	b.close()
}

// What an operation writes reaches one that reads a wider range with the host's own bytes around it.
func TestPartsOfAView(t *testing.T) {
	b := newBed(t)
	raw, err := b.x.Host()
	b.ok(err)
	for i := range n {
		put(raw, i, 1)
	}
	b.ok(b.s.Launch(kernels.Fill{Dst: b.x.Slice(100, 200), Value: 5}))
	b.ok(b.s.Launch(kernels.Fill{Dst: b.x.Slice(300, 301), Value: 6}))
	b.ok(b.s.Copy(b.d, b.x))
	back := make([]byte, 4*n)
	b.ok(b.s.Download(back, b.d))
	b.sync(b.s)
	for i := range n {
		want := 1.0
		switch {
		case i >= 100 && i < 200:
			want = 5
		case i == 300:
			want = 6
		}
		if v := value(back, i); v != want {
			t.Fatalf("element %d: %v, want %v", i, v, want)
		}
	}
	b.close()
}

func TestStreamsWithoutWait(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second func(b *bed, s kernels.Stream) error
		conflict      []string // nil: none
	}{
		{"read after write", fillD, readD, []string{`"copy" of stream two reads src`, `"fill" of stream one writes as Dst`}},
		{"write after read", readD, fillD, []string{`"fill" of stream two writes Dst`, `"copy" of stream one reads as src`}},
		{"write after write", fillD, fillD, []string{`"fill" of stream two`, `"fill" of stream one`}},
		{"read after read", readD, func(b *bed, s kernels.Stream) error { return s.Copy(b.y, b.d) }, nil},
		{"apart", fillD, func(b *bed, s kernels.Stream) error { return s.Launch(kernels.Fill{Dst: b.x}) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			b.ok(c.first(b, b.s))
			err := c.second(b, b.two)
			if c.conflict == nil {
				b.ok(err)
			} else {
				b.fails(err, append(c.conflict, "missing Record and Wait")...)
			}
			b.ok(b.two.Wait(b.event(b.s)))
			b.ok(c.second(b, b.two))
			b.sync(b.two)
			b.sync(b.s)
			b.close()
		})
	}
}

func fillD(b *bed, s kernels.Stream) error { return s.Launch(kernels.Fill{Dst: b.d, Value: 1}) }
func readD(b *bed, s kernels.Stream) error { return s.Copy(b.x, b.d) }

// An event orders what came before it, not what comes after; the host's own Sync orders too.
func TestWaitTooEarly(t *testing.T) {
	b := newBed(t)
	e := b.event(b.s)
	b.ok(fillD(b, b.s))
	b.ok(b.two.Wait(e))
	b.fails(readD(b, b.two), "missing Record and Wait")
	b.sync(b.s)
	b.ok(readD(b, b.two))
	b.sync(b.two)
	b.close()
}

// Order is passed on: two waits for one, and what one waited for is ordered as well.
func TestWaitPassesOrderOn(t *testing.T) {
	b := newBed(t)
	three, err := b.b.NewStream("three")
	b.ok(err)
	b.ok(fillD(b, b.s))
	b.ok(b.two.Wait(b.event(b.s)))
	b.ok(b.two.Launch(kernels.Add{Out: b.d, A: b.d, B: b.d}))
	b.ok(three.Wait(b.event(b.two)))
	b.ok(three.Launch(kernels.Add{Out: b.d, A: b.d, B: b.d}))
	raw := make([]byte, 4*n)
	b.ok(three.Download(raw, b.d))
	b.sync(three)
	if v := value(raw, 9); v != 4 {
		t.Errorf("%v, want 4", v)
	}
	b.ok(three.Close())
	b.close()
}

func TestLeftQueued(t *testing.T) {
	b := newBed(t)
	b.ok(fillD(b, b.s))
	b.fails(b.d.Mem().Free(), `"fill" of stream one`, "missing Sync")
	b.fails(b.s.Close(), `"fill" of stream one`, "missing Sync")
	b.fails(b.b.Close(), "open")
	b.sync(b.s)
	b.close()
}

func TestDeviceHasNoHostView(t *testing.T) {
	b := newBed(t)
	_, err := b.d.Host()
	b.fails(err, "device memory")
	b.close()
}

// Whoever gets at the pages behind the Backend's back faults.
func TestPagesAreClosed(t *testing.T) {
	b := newBed(t)
	b.ok(fillD(b, b.s))
	b.sync(b.s)
	for i, m := range b.inner.taken {
		raw, err := m.Host()
		b.ok(err)
		if !faults(raw) {
			t.Errorf("allocation %d can be read", i)
		}
	}
	b.close()
}

func faults(raw []byte) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() != nil }()
	return raw[0] == raw[len(raw)-1]
}

// What fails while it runs is told by Sync, and what was queued behind it is not run.
func TestErrorAtSync(t *testing.T) {
	b := newBed(t)
	idMem, err := b.b.Alloc(kernels.Device, 4)
	b.ok(err)
	id, err := kernels.NewBuffer(idMem, 0, 1, kernels.I32)
	b.ok(err)
	b.ok(b.s.Upload(id, []byte{99, 0, 0, 0}))
	b.ok(b.s.Launch(kernels.Embedding{Y: b.x.Slice(0, 10), Table: b.d, IDs: id, Rows: 1, V: n / 10, D: 10}))
	b.sync(b.s)
	b.ok(b.s.Upload(id, []byte{100, 0, 0, 0}))
	b.ok(b.s.Launch(kernels.Embedding{Y: b.x.Slice(0, 10), Table: b.d, IDs: id, Rows: 1, V: n / 10, D: 10}))
	b.ok(b.s.Launch(kernels.Fill{Dst: b.y, Value: 1}))
	b.ok(b.two.Wait(b.event(b.s)))
	b.fails(b.two.Sync(t.Context()), "embedding", "out of range")
	b.fails(b.s.Sync(t.Context()), "embedding")
	b.sync(b.s)
	raw, err := b.y.Host()
	b.ok(err)
	if v := value(raw, 0); v == 1 {
		t.Error("an operation behind the error ran")
	}
	b.ok(idMem.Free())
	b.close()
}

func TestCancelledSync(t *testing.T) {
	b := newBed(t)
	b.ok(fillD(b, b.s))
	b.ok(b.two.Wait(b.event(b.s)))
	b.ok(readD(b, b.two))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []kernels.Stream{b.s, b.two} {
		if err := s.Sync(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context canceled", err)
		}
	}
	b.sync(b.two) // nothing was lost
	raw, err := b.x.Host()
	b.ok(err)
	if v := value(raw, 0); v != 1 {
		t.Errorf("%v, want 1", v)
	}
	b.sync(b.s)
	b.close()
}
