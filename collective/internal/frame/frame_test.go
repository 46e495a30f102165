package frame

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/zerofleet/zerofleet/kernels"
)

// cut copies b into a BufferSlice of pieces of random lengths, some of them empty.
func cut(rng *rand.Rand, b []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := min(rng.IntN(100), len(b))
		out = append(out, mem.Copy(b[:n], mem.DefaultBufferPool()))
		b = b[n:]
	}
	return out
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func encode(t testing.TB, f *Outgoing) []byte {
	t.Helper()
	s, err := f.Encode(mem.DefaultBufferPool())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Free()
	return s.Materialize()
}

func example(rng *rand.Rand, metaBytes, dataBytes int, flags uint8) *Outgoing {
	return &Outgoing{
		Header: Header{
			Kind: Data, Type: kernels.BF16, Space: Pair, Flags: flags, Job: JobHash("job"), Generation: 3,
			Seq: 41, Chunk: 7, Rank: 2,
		},
		Meta: random(rng, metaBytes), Data: random(rng, dataBytes),
	}
}

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, metaBytes := range []int{0, 1, 500, MaxMetaBytes} {
		for _, dataBytes := range []int{0, 1, 2000, 70000} {
			for _, flags := range []uint8{0, FlagSummed, FlagSummed | FlagEager} {
				f := example(rng, metaBytes, dataBytes, flags)
				wire := encode(t, f)
				src := cut(rng, wire)
				got, err := Decode(src)
				src.Free() // the frame holds its own references
				if err != nil {
					t.Fatalf("meta %d, data %d, flags %#x: %v", metaBytes, dataBytes, flags, err)
				}
				want := f.Header
				want.MetaBytes, want.DataBytes, want.Sum = uint32(metaBytes), uint32(dataBytes), got.Sum
				if got.Header != want {
					t.Errorf("got header %+v, want %+v", got.Header, want)
				}
				if !bytes.Equal(got.Meta, f.Meta) || !bytes.Equal(got.Data.Materialize(), f.Data) {
					t.Errorf("meta %d, data %d, flags %#x: other bytes than were sent", metaBytes, dataBytes, flags)
				}
				got.Free()
				got.Free()
			}
		}
	}
}

// A frame with any one bit changed is refused: everything is summed, or must be zero.
func TestEveryBitCounts(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	wire := encode(t, example(rng, 20, 90, FlagSummed))
	for i := range wire {
		for bit := range 8 {
			bad := bytes.Clone(wire)
			bad[i] ^= 1 << bit
			if _, err := Decode(mem.BufferSlice{mem.SliceBuffer(bad)}); err == nil {
				t.Fatalf("byte %d, bit %d changed: accepted", i, bit)
			}
		}
	}
	// Without FlagSummed the data is the transport's to protect, the rest is not.
	wire = encode(t, example(rng, 20, 90, 0))
	for i := range wire {
		bad := bytes.Clone(wire)
		bad[i] ^= 1
		_, err := Decode(mem.BufferSlice{mem.SliceBuffer(bad)})
		if inData := i >= HeaderBytes+20; (err == nil) != inData {
			t.Errorf("byte %d of an unsummed frame changed: error %v", i, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	good := encode(t, example(rng, 4, 8, FlagSummed))
	set := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name string
		wire []byte
		want string
	}{
		{"nothing", nil, "frame of 0 bytes: want at least 59"},
		{"half a header", good[:30], "frame of 30 bytes"},
		{"half the data", good[:len(good)-4], "data frame of 67 bytes: its header wants 71"},
		{"too much data", append(bytes.Clone(good), 0), "its header wants 71"},
		{"magic", set(0, 'Z'), "frame begins with 5a 66 63 01"},
		{"version", set(3, 9), "frame of version 9, want 1"},
		{"no kind", set(4, 0), "none: want 1 to 10"},
		{"kind", set(4, 77), "frame kind 77: want 1 to 10"},
		{"type", set(5, 99), "type dtype(99): no such type"},
		{"space", set(6, 4), "space 4: want 0 to 3"},
		{"flags", set(7, 0x80), "flags 0x80"},
		{"meta length", set(40, 0xff, 0xff), "meta part of 65535 bytes: want at most 4096"},
		{"data length", set(44, 0xff, 0xff, 0xff, 0xff), "4294967295 bytes of data: want at most 1048576"},
		{"end of header", set(57, 1), "00 01 00 at the header's end"},
		{"checksum", set(48, 0, 0, 0), "data frame 41.7: bad checksum"},
	} {
		_, err := Decode(cut(rng, c.wire))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one that says %q", c.name, err, c.want)
		}
		if c.name == "checksum" && !errors.Is(err, ErrChecksum) {
			t.Errorf("%s: got %v, want ErrChecksum", c.name, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, f := range []*Outgoing{
		{Meta: make([]byte, MaxMetaBytes+1)},
		{Data: make([]byte, MaxDataBytes+1)},
	} {
		if _, err := f.Encode(mem.DefaultBufferPool()); err == nil {
			t.Errorf("encoded %d bytes of meta and %d of data", len(f.Meta), len(f.Data))
		}
	}
}

// FuzzDecode feeds bytes as they might come from a broken or hostile peer, in pieces. What
// is accepted must encode to the same bytes again.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	f.Add([]byte{}, uint64(0))
	for _, flags := range []uint8{0, FlagSummed, FlagEager} {
		f.Add(encode(f, example(rng, 30, 100, flags)), uint64(1))
		f.Add(encode(f, example(rng, 0, 0, flags)), uint64(2))
	}
	hello := encode(f, &Outgoing{Header: Header{Kind: Hello}, Meta: []byte("\x08\x01")})
	f.Add(hello, uint64(3))
	f.Add(hello[:40], uint64(4))
	f.Fuzz(func(t *testing.T, wire []byte, seed uint64) {
		src := cut(rand.New(rand.NewPCG(seed, 0)), wire)
		defer src.Free()
		got, err := Decode(src)
		if err != nil {
			return
		}
		defer got.Free()
		if len(got.Meta) != int(got.MetaBytes) || got.Data.Len() != int(got.DataBytes) {
			t.Fatalf("parts of %d and %d bytes, header says %d and %d", len(got.Meta), got.Data.Len(), got.MetaBytes, got.DataBytes)
		}
		again := encode(t, &Outgoing{Header: got.Header, Meta: got.Meta, Data: got.Data.Materialize()})
		if !bytes.Equal(again, wire) {
			t.Fatalf("encodes to % x, want % x", again, wire)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 9))
	for name, flags := range map[string]uint8{"summed": FlagSummed, "unsummed": 0} {
		wire := encode(b, example(rng, 0, MaxDataBytes, flags))
		var src mem.BufferSlice
		for i := 0; i < len(wire); i += 16 << 10 {
			src = append(src, mem.SliceBuffer(wire[i:min(i+16<<10, len(wire))]))
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(MaxDataBytes)
			b.ReportAllocs()
			for b.Loop() {
				f, err := Decode(src)
				if err != nil {
					b.Fatal(err)
				}
				f.Free()
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 9))
	for name, flags := range map[string]uint8{"summed": FlagSummed, "unsummed": 0} {
		out := example(rng, 0, MaxDataBytes, flags)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(MaxDataBytes)
			b.ReportAllocs()
			for b.Loop() {
				s, err := out.Encode(mem.DefaultBufferPool())
				if err != nil {
					b.Fatal(err)
				}
				s.Free()
			}
		})
	}
}
