package weights

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
)

// folderFiles is what one safetensors file and a sharded set have in common.
type folderFiles interface {
	Tensors() []safetensors.Tensor
	ReadF32(name string, lo, hi int, dst []float32) error
	Close() error
}

// folderSource is a Hugging Face folder.
type folderSource struct {
	config  spec.Config
	tensors map[string]spec.Tensor
	files   folderFiles
}

func openFolder(dir string) (Source, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	files, err := openFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	held := map[string]stored{}
	for _, t := range files.Tensors() {
		readable := t.DType == safetensors.F32 || t.DType == safetensors.F16 || t.DType == safetensors.BF16
		held[t.Name] = stored{t.Shape, string(t.DType), readable}
	}
	if err := check(c, held, "F32, F16, BF16"); err != nil {
		return nil, errors.Join(fmt.Errorf("model %s: weights do not match config.json: %w", dir, err), files.Close())
	}
	return &folderSource{c, tensorsOf(c), files}, nil
}

// openFiles opens the one file or, without it, those of the index.
func openFiles(dir string) (folderFiles, error) {
	single := filepath.Join(dir, safetensors.SingleName)
	if _, err := os.Stat(single); err == nil {
		return safetensors.Open(single)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, safetensors.IndexName)); err == nil {
		return safetensors.OpenSharded(dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, fmt.Errorf("neither %s nor %s: %w", safetensors.SingleName, safetensors.IndexName, fs.ErrNotExist)
}

func (s *folderSource) Config() spec.Config { return s.config }

func (s *folderSource) ReadF32(ctx context.Context, tensor string, lo, hi int, dst []float32) error {
	if _, err := tensorOf(s.tensors, tensor, lo, hi, len(dst)); err != nil {
		return err
	}
	return inChunks(ctx, lo, hi, func(a, b int) error { return s.files.ReadF32(tensor, a, b, dst[a-lo:b-lo]) })
}

func (s *folderSource) Close() error { return s.files.Close() }
