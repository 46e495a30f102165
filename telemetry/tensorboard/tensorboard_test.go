package tensorboard

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

// The golden file is what the real tensorboard package writes for the same scalars: tools/golden/tfevents.py.
func TestBytesAreTensorBoards(t *testing.T) {
	want, err := os.ReadFile("testdata/golden.tfevents")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 5e8)
	var got buffer
	w := NewWriter(&got, at)
	for _, s := range []struct {
		step int64
		loss float64
	}{{1, 3.25}, {300, -0.5}} {
		if err := w.Add(at.Add(time.Duration(s.step)*time.Second), s.step, Scalar{"train/loss", s.loss}, Scalar{"train/grad_norm", 1e-3}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got\n%x\nwant\n%x", got.Bytes(), want)
	}
}

func TestCreateNamesTheFileAsTensorBoardFindsIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tb")
	w, err := Create(dir, time.Unix(12, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.0000000012.*"))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v: want one", files, err)
	}
}
