package weights

import (
	"context"
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/gguf"
	"github.com/zerofleet/zerofleet/model/spec"
)

// ggufSource is a GGUF file of the llama architecture.
type ggufSource struct {
	config  spec.Config
	tensors map[string]spec.Tensor
	file    *gguf.File
}

func openGGUF(path string) (Source, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	c, err := spec.FromGGUF(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("model %w", err), f.Close())
	}
	tensors := tensorsOf(c)
	if err := check(c, canonical(c, f, tensors), "F32, F16, BF16, Q8_0, Q4_0, Q4_1"); err != nil {
		return nil, errors.Join(fmt.Errorf("model %s: tensors do not match the metadata: %w", path, err), f.Close())
	}
	return &ggufSource{c, tensors, f}, nil
}

// canonical lists the file's tensors, those of the configuration under their canonical
// names, others under the file's.
func canonical(c spec.Config, f *gguf.File, tensors map[string]spec.Tensor) map[string]stored {
	names := map[string]string{} // the file's to the canonical
	for name := range tensors {
		if g, ok := c.GGUF(name); ok {
			names[g.Name] = name
		}
	}
	held := map[string]stored{}
	for _, t := range f.Tensors() {
		name, ok := names[t.Name]
		if !ok {
			name = t.Name
		}
		held[name] = stored{t.Shape, t.Type.String(), t.Type.Readable()}
	}
	return held
}

func (s *ggufSource) Config() spec.Config { return s.config }

func (s *ggufSource) ReadF32(ctx context.Context, tensor string, lo, hi int, dst []float32) error {
	t, err := tensorOf(s.tensors, tensor, lo, hi, len(dst))
	if err != nil {
		return err
	}
	g, _ := s.config.GGUF(tensor)
	return inChunks(ctx, lo, hi, func(a, b int) error {
		if !g.Permuted() {
			return s.file.ReadF32(g.Name, a, b, dst[a-lo:b-lo])
		}
		return s.readRows(g, t.Shape[1], a, b, dst[a-lo:b-lo])
	})
}

// readRows reads elements [lo, hi) of a matrix of rows of width, each from its place in the
// file; the first and the last row may be cut.
func (s *ggufSource) readRows(g spec.GGUFTensor, width, lo, hi int, dst []float32) error {
	for at := lo; at < hi; {
		row := at / width
		end := min(hi, (row+1)*width)
		shift := (g.Row(row) - row) * width
		if err := s.file.ReadF32(g.Name, at+shift, end+shift, dst[at-lo:end-lo]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (s *ggufSource) Close() error { return s.file.Close() }
