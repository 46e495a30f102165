package gguf_test

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/gguf"
)

// image builds a file piece by piece.
type image []byte

func start(tensors, pairs uint64) image {
	return append(image("GGUF"), 3, 0, 0, 0).u64(tensors).u64(pairs)
}

func (b image) u32(n uint32) image    { return binary.LittleEndian.AppendUint32(b, n) }
func (b image) u64(n uint64) image    { return binary.LittleEndian.AppendUint64(b, n) }
func (b image) text(s string) image   { return append(b.u64(uint64(len(s))), s...) }
func (b image) zeros(n int) image     { return append(b, make([]byte, n)...) }
func (b image) pad() image            { return b.zeros((32 - len(b)%32) % 32) }
func (b image) pair(key string) image { return b.text(key).u32(4).u32(7) }

// tensor appends one entry; dims innermost first.
func (b image) tensor(name string, kind gguf.Type, offset uint64, dims ...uint64) image {
	b = b.text(name).u32(uint32(len(dims)))
	for _, n := range dims {
		b = b.u64(n)
	}
	return b.u32(uint32(kind)).u64(offset)
}

func write(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.gguf")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenRefuses(t *testing.T) {
	version := func(v uint32) image { return append(image("GGUF").u32(v), make([]byte, 16)...) }
	array := func(kind uint32, count uint64) image { return start(0, 1).text("k").u32(9).u32(kind).u64(count) }
	for _, tt := range []struct {
		name string
		file image
		want string
	}{
		{"empty", nil, "0 bytes: want at least 24"},
		{"magic", image("GGML").zeros(20), `starts with "GGML", want "GGUF"`},
		{"version 1", version(1), "version 1: want 2 or 3"},
		{"version 0", version(0), "version 0: want 2 or 3"},
		{"big-endian", version(3 << 24), "big-endian"},
		{"tensors", start(1<<60, 0), "1152921504606846976 tensors in 8 bytes"},
		{"pairs", start(0, 1<<60), "1152921504606846976 metadata pairs in 0 bytes"},
		{"no pair", start(0, 1).zeros(14), "metadata key of 0 bytes"},
		{"long key", start(0, 1).u64(1 << 40).zeros(14), "metadata key of 1099511627776 bytes: want 1 to 65535"},
		{"cut key", start(0, 1).u64(100).zeros(20), "100 bytes wanted, 20 left: the file is truncated"},
		{"metadata type", start(0, 1).text("key").u32(13).zeros(8), `metadata "key": byte 39: metadata type 13: want 0 to 12`},
		{"bool", start(0, 1).text("key").u32(7).zeros(0).u32(2), `metadata "key": byte 40: bool 2`},
		{"pair twice", start(0, 2).pair("k").pair("k"), `metadata "k" stands twice`},
		{"long text", start(0, 1).text("k").u32(8).u64(math.MaxUint64).zeros(8), "18446744073709551615 bytes wanted"},
		{"long array", array(4, 3).zeros(8), `metadata "k": byte 49: 3 values in 8 bytes`},
		{"huge array", array(10, 1<<62), "4611686018427387904 values in 0 bytes"},
		{"array of texts", array(8, 2).zeros(15), "2 strings in 15 bytes"},
		{"array of arrays", array(9, 1).zeros(64), "array of metadata type 9"},
		{"array of unknown", array(99, 1).zeros(64), "array of metadata type 99"},
		{"no tensor", start(1, 0).zeros(25), "tensor name of 0 bytes"},
		{"dims", start(1, 0).tensor("x", gguf.F32, 0, 1, 1, 1, 1, 1), `tensor "x": 5 dims: want at most 4`},
		{"size 0", start(1, 0).tensor("x", gguf.F32, 0, 0), `tensor "x": size 0`},
		{"overflow", start(1, 0).tensor("x", gguf.F32, 0, 1<<32, 1<<32), `tensor "x": size 4294967296`},
		{"larger than the file", start(1, 0).tensor("x", gguf.F32, 0, 1<<40), `tensor "x": 1099511627776 elements of F32 at offset 0: the file is truncated`},
		{"type", start(1, 0).tensor("x", 4, 0, 1).pad().zeros(4), `tensor "x": unknown type 4`},
		{"block", start(1, 0).tensor("x", gguf.Q8_0, 0, 33).pad().zeros(68), `tensor "x": rows of 33: want a multiple of Q8_0's block of 32`},
		{"twice", start(2, 0).tensor("x", gguf.F32, 0, 1).tensor("x", gguf.F32, 32, 1).pad().zeros(36), `tensor "x" stands twice`},
		{"misaligned", start(1, 0).tensor("x", gguf.F32, 16, 1).pad().zeros(20), `tensor "x": offset 16: misaligned: want a multiple of 32`},
		{"far", start(1, 0).tensor("x", gguf.F32, 1<<63, 1).pad().zeros(4), `tensor "x": 1 elements of F32 at offset 9223372036854775808`},
		{"cut data", start(1, 0).tensor("x", gguf.F32, 0, 2).pad().zeros(7), `tensor "x": ends at byte 72 of 71: the file is truncated`},
		{"overlap", start(2, 0).tensor("x", gguf.F32, 0, 16).tensor("y", gguf.F32, 32, 1).pad().zeros(64), `tensor "y": bytes [128, 132) overlap those of "x"`},
		{"alignment", start(0, 1).text("general.alignment").u32(4).u32(24), "metadata general.alignment: 24: want a power of two"},
		{"alignment 0", start(0, 1).text("general.alignment").u32(4).u32(0), "metadata general.alignment: 0: want a power of two"},
		{"alignment text", start(0, 1).text("general.alignment").u32(8).text("32"), "metadata general.alignment: got string, want a whole number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.file)
			f, err := gguf.Open(path)
			if err == nil {
				f.Close()
				t.Fatalf("opened; want an error with %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %q, want the path and %q", err, tt.want)
			}
			if !errors.Is(err, gguf.ErrMalformed) {
				t.Errorf("%v: want ErrMalformed", err)
			}
		})
	}
}

// TestTruncated: the golden file, cut anywhere, is refused and does not crash.
func TestTruncated(t *testing.T) {
	b, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.gguf")
	for n := 0; n < len(b); n += 7 {
		if err := os.WriteFile(path, b[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err == nil {
			f.Close()
			if len(b)-n < 64 { // padding after the last tensor
				continue
			}
			t.Fatalf("cut to %d of %d bytes: opened", n, len(b))
		}
		if !errors.Is(err, gguf.ErrMalformed) {
			t.Fatal(err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	f := open(t, write(t, start(2, 0).tensor("x", gguf.F32, 0, 8).tensor("k", 14, 32, 256).pad().zeros(32+210)))
	for _, tt := range []struct {
		name         string
		lo, hi, room int
		want         string
	}{
		{"none", 0, 1, 1, `no tensor "none"`},
		{"x", -1, 1, 2, "elements [-1, 1)"},
		{"x", 2, 1, 0, "elements [2, 1)"},
		{"x", 0, 9, 9, "elements [0, 9): want a range within 8"},
		{"x", 0, 8, 7, "room for 7"},
		{"k", 0, 1, 1, `tensor "k": type Q6_K: want one of F32, F16, BF16, Q8_0, Q4_0, Q4_1`},
	} {
		if err := f.ReadF32(tt.name, tt.lo, tt.hi, make([]float32, tt.room)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ReadF32(%q, %d, %d): got %v, want %q", tt.name, tt.lo, tt.hi, err, tt.want)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadF32("x", 0, 1, make([]float32, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

// TestReadAfterTruncation: a file that shrinks under the mapping would be a SIGBUS.
func TestReadAfterTruncation(t *testing.T) {
	path := write(t, start(1, 0).tensor("x", gguf.F32, 0, 1<<16).pad().zeros(1<<18))
	f := open(t, path)
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadF32("x", 0, 1<<16, make([]float32, 1<<16)); err == nil || !strings.Contains(err.Error(), path+": read failed") {
		t.Errorf("got %v, want a read error with the path", err)
	}
}

func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile(tiny)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte(start(1, 1).pair("k").tensor("x", gguf.Q4_1, 0, 64).pad().zeros(40)))
	f.Add([]byte(start(0, 1).text("k").u32(9).u32(8).u64(1).text("a")))
	f.Add([]byte(start(0, 1).text("general.alignment").u32(4).u32(64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < gguf.MinBytes {
			return
		}
		file, err := gguf.OpenBytes(b)
		if err != nil {
			if !errors.Is(err, gguf.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		for _, tensor := range file.Tensors() {
			if !tensor.Type.Readable() {
				continue
			}
			if tensor.Elems > 8*len(b) {
				t.Fatalf("tensor %q: %d elements in a file of %d bytes", tensor.Name, tensor.Elems, len(b))
			}
			lo, hi := tensor.Elems/3, tensor.Elems
			if err := file.ReadF32(tensor.Name, lo, hi, make([]float32, hi-lo)); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range file.Metadata().Keys() {
			file.Metadata().Int(key)
			file.Metadata().Ints(key)
		}
	})
}
