package safetensors_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/safetensors"
)

// image is a file with this header and so many bytes of data.
func image(header string, dataBytes int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, dataBytes)...)
}

// two is a header of two tensors of 8 bytes with the given ranges.
func two(a, b string) string {
	return fmt.Sprintf(`{"a":{"dtype":"F32","shape":[2],"data_offsets":%s},"b":{"dtype":"F32","shape":[2],"data_offsets":%s}}`, a, b)
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenRefuses(t *testing.T) {
	one := func(entry string) string { return `{"x":` + entry + `}` }
	long := image(`{}`, 0)
	binary.LittleEndian.PutUint64(long, safetensors.MaxHeaderBytes+1)
	huge := image(`{}`, 0)
	binary.LittleEndian.PutUint64(huge, 1<<63)
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "0 bytes: want at least 8"},
		{"short", []byte("1234567"), "7 bytes: want at least 8"},
		{"long header", long, "header of 100000001 bytes: want at most 100000000"},
		{"negative header", huge, "header of 9223372036854775808 bytes"},
		{"truncated header", image(two("[0,8]", "[8,16]"), 0)[:40], "but only 32 follow: the file is truncated"},
		{"no header", image(``, 0), "not a JSON object"},
		{"not an object", image(`[]`, 0), "not a JSON object"},
		{"not UTF-8", image("{\"\xff\":1}", 0), "not a JSON object in UTF-8"},
		{"cut object", image(`{"x":`, 0), "header"},
		{"cut after key", image(`{`, 0), "EOF"},
		{"rest", image(`{} {}`, 0), "2 bytes after the object"},
		{"twice", image(`{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, 1), `tensor "x" stands twice`},
		{"metadata twice", image(`{"__metadata__":{},"__metadata__":{}}`, 0), "stands twice"},
		{"metadata key twice", image(`{"__metadata__":{"a":"1","a":"2"}}`, 0), `__metadata__: "a" stands twice`},
		{"metadata of numbers", image(`{"__metadata__":{"a":1}}`, 0), `"a": got 1, want a string`},
		{"no dtype", image(one(`{"shape":[],"data_offsets":[0,0]}`), 0), `tensor "x": missing dtype`},
		{"no shape", image(one(`{"dtype":"F32","data_offsets":[0,0]}`), 0), `tensor "x": missing shape`},
		{"no offsets", image(one(`{"dtype":"F32","shape":[]}`), 0), `tensor "x": missing data_offsets`},
		{"dtype twice", image(one(`{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}`), 4), `tensor "x": dtype stands twice`},
		{"unknown key", image(one(`{"dtype":"F32","strides":[]}`), 4), `tensor "x": unknown key "strides"`},
		{"unknown dtype", image(one(`{"dtype":"F4","shape":[2],"data_offsets":[0,1]}`), 1), `tensor "x": unknown dtype "F4"`},
		{"negative size", image(one(`{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}`), 4), `tensor "x": got -1, want a whole number`},
		{"broken size", image(one(`{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}`), 4), `tensor "x": got 1.5, want a whole number`},
		{"size is text", image(one(`{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}`), 4), `tensor "x": got 1, want a whole number`},
		{"overflow", image(one(`{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}`), 0), `tensor "x": shape [4294967296 4294967296]: too large`},
		{"overflow in bytes", image(one(`{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}`), 0), `too large`},
		{"many dims", image(one(`{"dtype":"F32","shape":[`+strings.Repeat("1,", 64)+`1],"data_offsets":[0,4]}`), 4), "more than 64 numbers"},
		{"one offset", image(one(`{"dtype":"F32","shape":[],"data_offsets":[4]}`), 4), "want [begin, end]"},
		{"three offsets", image(one(`{"dtype":"F32","shape":[],"data_offsets":[0,4,8]}`), 4), "more than 2 numbers"},
		{"backward", image(one(`{"dtype":"F32","shape":[],"data_offsets":[4,0]}`), 4), "data_offsets [4 0]: want [begin, end] with begin <= end"},
		{"far away", image(one(`{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807]}`), 4), `tensor "x": data_offsets`},
		{"wrong bytes", image(two("[0,8]", "[8,15]"), 15), `tensor "b": data_offsets [8 15] hold 7 bytes, but F32 [2] has 8`},
		{"misaligned", image(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}}`, 3), `tensor "b": data_offsets [1 3]: misaligned`},
		{"overlap", image(two("[0,8]", "[4,12]"), 12), `tensor "b": data_offsets [4, 12) overlap those of "a"`},
		{"same range", image(two("[0,8]", "[0,8]"), 8), `tensor "b": data_offsets [0, 8) overlap those of "a"`},
		{"hole", image(two("[0,8]", "[12,20]"), 20), `tensor "b": hole of 4 bytes before data_offsets [12, 20)`},
		{"hole first", image(two("[4,12]", "[12,20]"), 20), `tensor "a": hole of 4 bytes`},
		{"truncated data", image(two("[0,8]", "[8,16]"), 15), `tensor "b": data_offsets end at 16, but the file has 15 bytes of data`},
		{"rest of data", image(two("[0,8]", "[8,16]"), 17), "1 bytes after the last tensor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, "x.safetensors", tt.file)
			f, err := safetensors.Open(path)
			if err == nil {
				f.Close()
				t.Fatalf("opened; want an error with %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %q, want the path and %q", err, tt.want)
			}
			if !errors.Is(err, safetensors.ErrMalformed) {
				t.Errorf("%v: want ErrMalformed", err)
			}
		})
	}
}

func TestOpenAccepts(t *testing.T) {
	for name, file := range map[string][]byte{
		"nothing":        image(`{}`, 0),
		"padded":         image("{}   \n", 0),
		"any order":      image(two("[8,16]", "[0,8]"), 16),
		"empty tensors":  image(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}}`, 0),
		"empty metadata": image(`{"__metadata__":{}}`, 0),
	} {
		f, err := safetensors.Open(write(t, "x.safetensors", file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
}

func TestOpenMissing(t *testing.T) {
	_, err := safetensors.Open("testdata/none.safetensors")
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "testdata/none.safetensors") {
		t.Errorf("got %v, want ErrNotExist with the path", err)
	}
	if _, err := safetensors.Open("testdata"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: got %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	f := open(t, mixed)
	dst := make([]float32, 4)
	for _, tt := range []struct {
		name   string
		lo, hi int
		want   string
	}{
		{"none", 0, 4, `no tensor "none"`},
		{"values", -1, 3, "elements [-1, 3)"},
		{"values", 4, 0, "elements [4, 0)"},
		{"values", 1 << 30, 1<<30 + 4, "want a range within"},
		{"values", 0, 5, "elements [0, 5): room for 4"},
		{"u8", 0, 4, `tensor "u8": dtype U8: want one of F32, F16, BF16`},
	} {
		if err := f.ReadF32(tt.name, tt.lo, tt.hi, dst); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ReadF32(%q, %d, %d): got %v, want %q", tt.name, tt.lo, tt.hi, err, tt.want)
		}
	}
	for _, n := range []int{3, 5, 8} {
		if err := f.ReadBytes("values", 0, 1, make([]byte, n)); err == nil {
			t.Errorf("ReadBytes of 4 bytes into %d: no error", n)
		}
	}
}

// TestReadAfterTruncation: a file that shrinks under the mapping would be a SIGBUS.
func TestReadAfterTruncation(t *testing.T) {
	const elems = 1 << 16
	header := fmt.Sprintf(`{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}`, elems, 4*elems)
	path := write(t, "x.safetensors", image(header, 4*elems))
	f := open(t, path)
	dst := make([]float32, elems)
	if err := f.ReadF32("x", 0, elems, dst); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{f.ReadF32("x", 0, elems, dst), f.ReadBytes("x", elems-1, elems, make([]byte, 4))} {
		if err == nil || !strings.Contains(err.Error(), path+": read failed") {
			t.Errorf("got %v, want a read error with the path", err)
		}
	}
}

func TestReadAfterClose(t *testing.T) {
	f, err := safetensors.Open(mixed)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ReadF32("scalar", 0, 1, make([]float32, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestOpenShardedRefuses(t *testing.T) {
	good := image(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4)
	for _, tt := range []struct {
		name, index, want string
		malformed         bool
	}{
		{"not JSON", `{`, "unexpected end", true},
		{"no map", `{"metadata":{}}`, "weight_map: empty or missing", true},
		{"outside", `{"weight_map":{"a":"../1.safetensors"}}`, `tensor "a": file "../1.safetensors": want a name in the index's folder`, true},
		{"missing file", `{"weight_map":{"a":"3.safetensors"}}`, "3.safetensors: no such file", false},
		{"missing tensor", `{"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}`, `tensor "b" is not in 1.safetensors`, true},
		{"twice", `{"weight_map":{"b":"1.safetensors","c":"2.safetensors"}}`, `tensor "a" stands in`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range map[string][]byte{safetensors.IndexName: []byte(tt.index), "1.safetensors": good, "2.safetensors": good} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s, err := safetensors.OpenSharded(dir)
			if err == nil {
				s.Close()
				t.Fatalf("opened; want an error with %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) || errors.Is(err, safetensors.ErrMalformed) != tt.malformed {
				t.Errorf("got %v (malformed %v), want %q (%v)", err, errors.Is(err, safetensors.ErrMalformed), tt.want, tt.malformed)
			}
		})
	}
}

// TestOpenShardedIndexDecides: a tensor in two files is the one that the index names.
func TestOpenShardedIndexDecides(t *testing.T) {
	dir := t.TempDir()
	file := image(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4)
	second := append(image(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 1), 0)
	for name, b := range map[string][]byte{
		safetensors.IndexName: []byte(`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`), "1.safetensors": file, "2.safetensors": second,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := safetensors.OpenSharded(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if a, ok := s.Tensor("a"); !ok || a.DType != safetensors.F32 {
		t.Errorf("got %v, %v, want the F32 of the first file", a, ok)
	}
	if got := len(s.Tensors()); got != 2 {
		t.Errorf("got %d tensors, want 2", got)
	}
}

func FuzzOpen(f *testing.F) {
	golden, err := os.ReadFile("testdata/sharded/model-00001-of-00003.safetensors") // small: a fuzzer is as fast as its seeds
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(image(two("[0,8]", "[8,16]"), 16))
	f.Add(image(two("[0,8]", "[4,12]"), 12))
	f.Add(image(`{"__metadata__":{"format":"pt"},"x":{"dtype":"BF16","shape":[2,0],"data_offsets":[0,0]}}`, 0))
	f.Add(image(`{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}   `, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < safetensors.MinBytes {
			return
		}
		file, err := safetensors.OpenBytes(b)
		if err != nil {
			if !errors.Is(err, safetensors.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		// What is accepted is read without fault, and its tensors are all of the data.
		var bytes int64
		for _, tensor := range file.Tensors() {
			bytes += tensor.Bytes()
			if err := file.ReadBytes(tensor.Name, 0, tensor.Elems, make([]byte, tensor.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		if header := int64(8 + binary.LittleEndian.Uint64(b)); header+bytes != int64(len(b)) {
			t.Fatalf("header of %d and %d bytes of tensors in a file of %d", header, bytes, len(b))
		}
	})
}
