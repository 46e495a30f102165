package kerneltest

import (
	"bytes"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// backendChecks are about memory and streams, whatever is computed.
var backendChecks = []struct {
	name string
	run  func(t *testing.T, b kernels.Backend)
}{
	{"memory", checkMemory},
	{"transfers", checkTransfers},
	{"events", checkEvents},
	{"refusals", checkRefusals},
	{"close", checkClose},
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	}
}

func mustBuffer(m kernels.Memory, n int, dt kernels.DType) kernels.Buffer {
	b, err := kernels.NewBuffer(m, 0, n, dt)
	if err != nil {
		panic(err)
	}
	return b
}

// checkMemory: zeroed, of the length asked for, seen by the host when it is the host's.
func checkMemory(t *testing.T, b kernels.Backend) {
	for _, kind := range []kernels.Kind{kernels.Device, kernels.Host} {
		for _, n := range []int64{1, 63, 4096, 5 << 20} {
			m, err := b.Alloc(kind, n)
			ok(t, err)
			if m.Bytes() != n || m.Kind() != kind {
				t.Errorf("asked for %d bytes of %s, got %d of %s", n, kind, m.Bytes(), m.Kind())
			}
			host, err := m.Host()
			if kind == kernels.Device {
				refused(t, "host view of device memory", err)
			} else {
				ok(t, err)
				if int64(len(host)) != n || len(bytes.Trim(host, "\x00")) != 0 {
					t.Errorf("host memory of %d bytes: %d, or not zero", n, len(host))
				}
			}
			s, err := b.NewStream("memory")
			ok(t, err)
			got := bytes.Repeat([]byte{1}, int(n))
			ok(t, s.Download(got, mustBuffer(m, int(n), kernels.U8)))
			ok(t, s.Sync(t.Context()))
			if len(bytes.Trim(got, "\x00")) != 0 {
				t.Errorf("%d bytes of %s memory are not zero", n, kind)
			}
			ok(t, s.Close())
			ok(t, m.Free())
			_, err = m.Host()
			refused(t, "host view after free", err)
		}
	}
	for _, n := range []int64{0, -1, 1 << 62} {
		if m, err := b.Alloc(kernels.Device, n); err == nil {
			t.Errorf("allocated %d bytes", m.Bytes())
		}
	}
	_, err := b.Alloc(0, 8)
	refused(t, "memory of no kind", err)
}

// checkTransfers: upload, copy, download and host views see what was written before them.
func checkTransfers(t *testing.T, b kernels.Backend) {
	s, err := b.NewStream("transfers")
	ok(t, err)
	const n = 1000
	var bufs []kernels.Buffer
	for _, kind := range []kernels.Kind{kernels.Device, kernels.Host, kernels.Device} {
		m, err := b.Alloc(kind, n)
		ok(t, err)
		bufs = append(bufs, mustBuffer(m, n, kernels.U8))
	}
	src, want := make([]byte, n), make([]byte, n)
	for i := range src {
		src[i] = byte(i * 7)
	}
	copy(want, src)
	ok(t, s.Upload(bufs[0], src))
	clear(src) // it has been read
	ok(t, s.Copy(bufs[1], bufs[0]))
	ok(t, s.Copy(bufs[2], bufs[1]))
	got := make([]byte, n-10)
	ok(t, s.Download(got, bufs[2].Slice(3, n-7)))
	ok(t, s.Sync(t.Context()))
	if !bytes.Equal(got, want[3:n-7]) {
		t.Error("download differs from upload")
	}
	host, err := bufs[1].Host()
	ok(t, err)
	if !bytes.Equal(host, want) {
		t.Error("host view differs from upload")
	}
	host[5] = 200 // the host's writes reach the next operation
	ok(t, s.Copy(bufs[0], bufs[1]))
	ok(t, s.Download(got[:1], bufs[0].Slice(5, 6)))
	ok(t, s.Sync(t.Context()))
	if got[0] != 200 {
		t.Errorf("the host wrote 200, the device read %d", got[0])
	}
	ok(t, s.Close())
	for _, f := range bufs {
		ok(t, f.Mem().Free())
	}
}

// checkEvents: what one stream wrote before Record is there for another one after Wait.
func checkEvents(t *testing.T, b kernels.Backend) {
	a, err := b.NewStream("a")
	ok(t, err)
	c, err := b.NewStream("c")
	ok(t, err)
	m, err := b.Alloc(kernels.Device, 4*64)
	ok(t, err)
	x := mustBuffer(m, 64, kernels.F32)
	for i := range 5 {
		ok(t, a.Launch(kernels.Fill{Dst: x, Value: float32(i)}))
		done, err := a.Record()
		ok(t, err)
		ok(t, c.Wait(done))
		ok(t, c.Launch(kernels.Add{Out: x, A: x, B: x}))
		back, err := c.Record()
		ok(t, err)
		got := make([]byte, x.Bytes())
		ok(t, c.Download(got, x))
		ok(t, c.Sync(t.Context()))
		if v := decode(kernels.F32, got); v[0] != float64(2*i) || v[63] != float64(2*i) {
			t.Errorf("round %d: %v ... %v, want %d", i, v[0], v[63], 2*i)
		}
		ok(t, a.Wait(back))
	}
	refused(t, "wait for nil", a.Wait(nil))
	ok(t, a.Sync(t.Context()))
	ok(t, a.Close())
	ok(t, c.Close())
	ok(t, m.Free())
}

// checkRefusals: nothing runs on buffers that are too short, of a wrong type, without memory or of another Backend.
func checkRefusals(t *testing.T, b kernels.Backend) {
	s, err := b.NewStream("refusals")
	ok(t, err)
	m, err := b.Alloc(kernels.Device, 64)
	ok(t, err)
	f, h := mustBuffer(m, 8, kernels.F32), mustBuffer(m, 8, kernels.BF16)
	var measure kernels.Arena
	none, err := measure.Take(kernels.Workspace, kernels.Device, kernels.F32, 8)
	ok(t, err)
	refused(t, "types differ", s.Launch(kernels.Add{Out: f, A: f, B: h}))
	refused(t, "lengths differ", s.Launch(kernels.Add{Out: f, A: f, B: f.Slice(0, 7)}))
	refused(t, "no memory", s.Launch(kernels.Fill{Dst: none}))
	refused(t, "no buffer", s.Launch(kernels.Fill{}))
	refused(t, "upload of another length", s.Upload(f, make([]byte, 31)))
	refused(t, "download of another length", s.Download(make([]byte, 33), f))
	refused(t, "upload without memory", s.Upload(none, make([]byte, 32)))
	refused(t, "copy onto itself", s.Copy(f, f))
	refused(t, "copy of another type", s.Copy(h, f.Slice(0, 4)))
	ok(t, s.Sync(t.Context()))
	ok(t, s.Close())
	refused(t, "use of a closed stream", s.Launch(kernels.Fill{Dst: f}))
	ok(t, m.Free())
	refused(t, "free twice", m.Free())
}

// checkClose: a Backend does not close over what is open.
func checkClose(t *testing.T, b kernels.Backend) {
	m, err := b.Alloc(kernels.Host, 8)
	ok(t, err)
	refused(t, "close with memory", b.Close())
	ok(t, m.Free())
	s, err := b.NewStream("open")
	ok(t, err)
	refused(t, "close with a stream", b.Close())
	ok(t, s.Close())
}
