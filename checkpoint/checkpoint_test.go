package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/shard"
)

var ctx = context.Background()

// state is the value of an element that every test can compute.
func state(f Field, unit, elem int) float32 {
	return float32(unit) + float32(elem)/1000 + float32(f)*100
}

func testUnits() []Unit {
	return []Unit{
		{Name: "embed", Elems: 3000, Tensors: []Tensor{{Name: "e.weight", Shape: []int{30, 100}}}},
		{Name: "block.0", Elems: 700, Tensors: []Tensor{{Name: "a", Shape: []int{20, 30}}, {Name: "b", Shape: []int{100}, Offset: 600}}},
		{Name: "head", Elems: 5, Tensors: []Tensor{{Name: "n", Shape: []int{5}}}},
	}
}

// save writes and commits a checkpoint as world ranks would.
func save(t testing.TB, s Store, step int64, world int) *Manifest {
	t.Helper()
	m := &Manifest{Version: Version, Job: "j", Step: step, OptimizerStep: step, Generation: 1, World: world, LossScale: 1,
		Cursor: Cursor{Epoch: 1, Sample: 17}, Model: []byte(`{}`), Units: testUnits()}
	for rank := range world {
		var ranges []Range
		for i, u := range m.Units {
			l, err := shard.NewLayout(u.Elems, world)
			if err != nil {
				t.Fatal(err)
			}
			lo, hi := l.Owned(rank)
			r := Range{Unit: u.Name, Lo: lo}
			for f := range r.Fields {
				for e := lo; e < hi; e++ {
					r.Fields[f] = append(r.Fields[f], state(Field(f), i, e))
				}
			}
			ranges = append(ranges, r)
		}
		p, err := WritePart(ctx, s, m, rank, ranges)
		if err != nil {
			t.Fatal(err)
		}
		m.Parts = append(m.Parts, p)
	}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PutManifest(ctx, s, b); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnyRangeReadsBackFromAnyWorld(t *testing.T) {
	var hashes []string
	for _, world := range []int{1, 2, 3, 7} {
		s := Dir(t.TempDir())
		save(t, s, 4, world)
		m, damaged, err := Newest(ctx, s)
		if err != nil || len(damaged) > 0 {
			t.Fatal(err, damaged)
		}
		r := Open(s, m)
		for i, u := range m.Units {
			for _, span := range [][2]int{{0, u.Elems}, {u.Elems / 3, u.Elems/3 + u.Elems/2}, {2, 2}} {
				dst := make([]float32, span[1]-span[0])
				if err := r.Read(ctx, u.Name, M, span[0], span[1], dst); err != nil {
					t.Fatal(err)
				}
				for k, v := range dst {
					if want := state(M, i, span[0]+k); v != want {
						t.Fatalf("world %d, %s element %d: got %v, want %v", world, u.Name, span[0]+k, v, want)
					}
				}
			}
		}
		if faults := Verify(ctx, s, m); len(faults) > 0 {
			t.Errorf("world %d: %v", world, faults)
		}
		h, err := Hash(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, h := range hashes {
		if h != hashes[0] {
			t.Errorf("the hash depends on the world size: %v", hashes)
		}
	}
}

func TestHashSeesEveryElementAndCounter(t *testing.T) {
	hash := func(alter func(*Manifest)) string {
		s := Dir(t.TempDir())
		m := save(t, s, 4, 2)
		alter(m)
		r := Open(s, m)
		defer r.Close()
		h, err := Hash(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	want := hash(func(*Manifest) {})
	for name, alter := range map[string]func(*Manifest){
		"step":      func(m *Manifest) { m.Step++ },
		"optimizer": func(m *Manifest) { m.OptimizerStep-- },
		"cursor":    func(m *Manifest) { m.Cursor.Sample++ },
		"epoch":     func(m *Manifest) { m.Cursor.Epoch++ },
		"scale":     func(m *Manifest) { m.LossScale = 2 },
		"name":      func(m *Manifest) { m.Units[1].Tensors[0].Name = "c" },
		"shape":     func(m *Manifest) { m.Units[1].Tensors[0].Shape = []int{30, 20} },
	} {
		if hash(alter) == want {
			t.Errorf("the hash does not see %s", name)
		}
	}
	if got := hash(func(m *Manifest) { m.Generation = 9; m.Fingerprint = "f" }); got != want {
		t.Error("the hash sees the generation or the fingerprint")
	}
}

func TestOnePartAloneRestoresNothing(t *testing.T) {
	s := Dir(t.TempDir())
	m := save(t, s, 4, 2)
	if err := s.Delete(ctx, m.Parts[1].Key); err != nil {
		t.Fatal(err)
	}
	r := Open(s, m)
	defer r.Close()
	if _, err := Hash(ctx, r); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "part 1 of step 4") {
		t.Errorf("got %v, want a damaged checkpoint that names part 1", err)
	}
	if _, _, err := Newest(ctx, s); !errors.Is(err, ErrNone) {
		t.Errorf("newest: %v, want none", err)
	}
}

func TestDamageIsNamedAndThePreviousCheckpointUsed(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut off":  func(p string) error { return os.Truncate(p, 100) },
		"removed":  os.Remove,
		"manifest": func(p string) error { return nil },
	} {
		dir := t.TempDir()
		s := Dir(dir)
		save(t, s, 4, 2)
		m := save(t, s, 8, 2)
		if name == "manifest" {
			list, err := List(ctx, s)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, list[1].Key)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b[:len(b)/2], 0o644); err != nil {
				t.Fatal(err)
			}
		} else if err := damage(filepath.Join(dir, m.Parts[0].Key)); err != nil {
			t.Fatal(err)
		}
		got, damaged, err := Newest(ctx, s)
		if err != nil || got.Step != 4 || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), "step-0000000008") {
			t.Errorf("%s: newest is %+v, %v, damaged %v: want step 4 and the fault of step 8", name, got, err, damaged)
		}
	}
}

func TestAFlippedBitIsFoundByVerifyAndByReading(t *testing.T) {
	dir := t.TempDir()
	s := Dir(dir)
	m := save(t, s, 4, 2)
	path := filepath.Join(dir, m.Parts[1].Key)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	faults := Verify(ctx, s, m)
	if len(faults) != 1 || !strings.Contains(faults[0].Error(), "part 1 of step 4") || !errors.Is(faults[0], ErrCorrupt) {
		t.Errorf("verify: %v, want part 1 of step 4", faults)
	}
	r := Open(s, m)
	defer r.Close()
	if err := r.Read(ctx, "embed", Master, 2500, 2501, make([]float32, 1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read: %v, want a damaged checkpoint", err)
	}
	if err := r.Read(ctx, "embed", Master, 0, 1, make([]float32, 1)); err != nil {
		t.Errorf("read of the part that is whole: %v", err)
	}
}

func TestPruneKeepsTheNewestAndCollectsWhatNobodyNames(t *testing.T) {
	s := Dir(t.TempDir())
	for step := int64(1); step <= 4; step++ {
		save(t, s, step, 1)
	}
	orphan := func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }
	if err := s.Put(ctx, "step-0000000002/gen-1-part-1-of-2-00.safetensors", orphan); err != nil {
		t.Fatal(err)
	}
	if err := Prune(ctx, s, 2); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 4 || !strings.HasPrefix(list[0].Key, "step-0000000003/") {
		t.Errorf("left: %v, want the two objects of steps 3 and 4 each", list)
	}
	if _, err := os.Stat(filepath.Join(string(s), "step-0000000002")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of step 2 is still there: %v", err)
	}
}

func TestPutIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	s := Dir(dir)
	broken := errors.New("disk full")
	err := s.Put(ctx, "step-1/a", func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		if list, err := s.List(ctx, ""); err != nil || len(list) > 0 {
			t.Errorf("visible while it is written: %v, %v", list, err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("put: %v, want %v", err, broken)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "step-1")); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	for _, key := range []string{"../x", "/x", ""} {
		if err := s.Put(ctx, key, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("put %q: want an error", key)
		}
	}
}

func TestTemporaryFilesOfDeadWritersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := Dir(dir)
	old := filepath.Join(dir, temporaryPrefix+"dead")
	if err := os.WriteFile(old, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveTemporary(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err != nil {
		t.Errorf("a file that is being written was removed: %v", err)
	}
	if err := s.RemoveTemporary(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestManifestRefuses(t *testing.T) {
	s := Dir(t.TempDir())
	good := save(t, s, 4, 2)
	for name, c := range map[string]struct {
		alter func(*Manifest)
		want  error
	}{
		"a newer version":   {func(m *Manifest) { m.Version = 2 }, ErrVersion},
		"a missing part":    {func(m *Manifest) { m.Parts = m.Parts[:1] }, ErrCorrupt},
		"parts swapped":     {func(m *Manifest) { m.Parts = []Part{m.Parts[1], m.Parts[0]} }, ErrCorrupt},
		"a hole":            {func(m *Manifest) { m.Units[1].Tensors[1].Offset++ }, ErrCorrupt},
		"a name twice":      {func(m *Manifest) { m.Units[1].Tensors[1].Name = "a" }, ErrCorrupt},
		"no world":          {func(m *Manifest) { m.World = 0 }, ErrCorrupt},
		"a negative length": {func(m *Manifest) { m.Units[2].Tensors[0].Shape = []int{-5} }, ErrCorrupt},
	} {
		b, err := good.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		m, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		c.alter(m)
		if err := m.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := save(f, Dir(f.TempDir()), 1, 2).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"units":[{"tensors":[{"shape":[1099511627776,1099511627776]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("error of no class: %v", err)
			}
			return
		}
		if _, err := m.Marshal(); err != nil {
			t.Errorf("decoded but not encoded: %v", err)
		}
		_ = fmt.Sprint(m)
	})
}
