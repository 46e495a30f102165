package weights

import (
	"context"

	"github.com/zerofleet/zerofleet/model/spec"
)

// initStd is the standard deviation of a preset's matrices.
const initStd = 0.02

// presetSource makes weights instead of reading them. It holds nothing: any range of any
// tensor is computed when it is asked for.
type presetSource struct {
	config  spec.Config
	tensors map[string]spec.Tensor
	seed    uint64
}

func openPreset(ref string, seed uint64) (Source, error) {
	c, err := spec.Preset(ref)
	if err != nil {
		return nil, err
	}
	return &presetSource{c, tensorsOf(c), seed}, nil
}

func (s *presetSource) Config() spec.Config { return s.config }

// ReadF32 gives a norm's weights as 1, and element i of a matrix as initStd times draw i of
// the tensor's stream, rounded once to f32.
func (s *presetSource) ReadF32(ctx context.Context, tensor string, lo, hi int, dst []float32) error {
	t, err := tensorOf(s.tensors, tensor, lo, hi, len(dst))
	if err != nil {
		return err
	}
	draws := newStream(s.seed, tensor)
	return inChunks(ctx, lo, hi, func(a, b int) error {
		for i := a; i < b; i++ {
			if len(t.Shape) == 1 {
				dst[i-lo] = 1
			} else {
				dst[i-lo] = float32(initStd * draws.normal(uint64(i)))
			}
		}
		return nil
	})
}

func (s *presetSource) Close() error { return nil }
