// Package weights reads the weights that a model starts from, by canonical tensor name and
// element range, as f32, and writes a Hugging Face folder. It needs no kernels, so the
// coordinator can check a model and export one.
//
// Open takes a Hugging Face folder, a .gguf file or preset://name, checks every tensor
// against the configuration, and reads nothing until it is asked: a rank reads its ranges
// and no others. Save writes tensor by tensor in bounded memory.
package weights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zerofleet/zerofleet/gguf"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
	"github.com/zerofleet/zerofleet/source"
)

// Source is a model's weights. Its methods but Close may be called concurrently.
type Source interface {
	// Config describes the model; the tensors are those of its Units.
	Config() spec.Config

	// ReadF32 reads elements [lo, hi) of a tensor, in row-major order of the shape that Units
	// gives it, into dst, [hi-lo] f32. It costs that range, however large the model is. The
	// error names the file and the tensor, or is ctx's.
	ReadF32(ctx context.Context, tensor string, lo, hi int, dst []float32) error

	// Close releases the files. No ReadF32 may follow.
	Close() error
}

// Options are what Open needs beside the reference.
type Options struct {
	Seed uint64 // of a preset's weights; has no meaning for others
}

// chunkElems is how much is read between two looks at the context: 4 MB of f32.
const chunkElems = 1 << 20

// Open opens the weights of a model on this machine: a folder with config.json and
// safetensors, a .gguf file, or preset://name. A reference to a hub is made local by
// source.Model first. The error says what is missing, unexpected or of the wrong shape or
// dtype, by tensor.
func Open(ref string, o Options) (Source, error) {
	kind, err := classify(ref)
	if err != nil {
		return nil, err
	}
	switch kind {
	case preset:
		return openPreset(ref, o.Seed)
	case ggufFile:
		return openGGUF(ref)
	}
	return openFolder(ref)
}

// Config reads a model's configuration only; what Open takes, it takes.
func Config(ref string) (spec.Config, error) {
	kind, err := classify(ref)
	if err != nil {
		return spec.Config{}, err
	}
	switch kind {
	case preset:
		return spec.Preset(ref)
	case ggufFile:
		f, err := gguf.Open(ref)
		if err != nil {
			return spec.Config{}, err
		}
		defer f.Close()
		return spec.FromGGUF(f)
	}
	return readConfig(ref)
}

// kind is the form of a reference.
type kind int

const (
	folder kind = iota
	ggufFile
	preset
)

func classify(ref string) (kind, error) {
	if strings.HasPrefix(ref, spec.PresetScheme) {
		return preset, nil
	}
	if strings.Contains(ref, "://") {
		return 0, fmt.Errorf("model %s: want a local folder, a .gguf file or %sname", ref, spec.PresetScheme)
	}
	info, err := os.Stat(ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("model %s: %w", ref, fs.ErrNotExist)
	case err != nil:
		return 0, fmt.Errorf("model: %w", err)
	case info.IsDir():
		return folder, nil
	case filepath.Ext(ref) == ".gguf":
		return ggufFile, nil
	}
	return 0, fmt.Errorf("model %s: want a Hugging Face folder or a .gguf file", ref)
}

// maxConfigBytes bounds a config.json; real ones have a few KB.
const maxConfigBytes = 1 << 20

func readConfig(dir string) (spec.Config, error) {
	f, err := os.Open(filepath.Join(dir, "config.json"))
	if err != nil {
		return spec.Config{}, fmt.Errorf("model %s: %w", dir, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return spec.Config{}, fmt.Errorf("model %s: %w", dir, err)
	}
	c, err := spec.ParseConfig(b)
	if err != nil {
		return spec.Config{}, fmt.Errorf("model %s: %w", dir, err)
	}
	return c, nil
}

// Companions lists the files of a model's folder that Save should copy along: the
// tokenizer's, and generation_config.json. Other kinds of models have none.
func Companions(ref string) ([]Extra, error) {
	if kind, err := classify(ref); err != nil || kind != folder {
		return nil, err
	}
	var extra []Extra
	for _, name := range source.Companions {
		path := filepath.Join(ref, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", ref, err)
		}
		if info.Mode().IsRegular() {
			extra = append(extra, Extra{Name: name, Path: path})
		}
	}
	return extra, nil
}

// inChunks calls read for [lo, hi) piece by piece as long as ctx lives.
func inChunks(ctx context.Context, lo, hi int, read func(lo, hi int) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		next := min(hi, lo+chunkElems)
		if err := read(lo, next); err != nil || next == hi {
			return err
		}
		lo = next
	}
}

// tensorOf finds a tensor of the configuration and checks a range of it.
func tensorOf(tensors map[string]spec.Tensor, name string, lo, hi, room int) (spec.Tensor, error) {
	t, ok := tensors[name]
	switch {
	case !ok:
		return t, fmt.Errorf("read weights: no tensor %q", name)
	case lo < 0 || hi < lo || hi > t.Elems:
		return t, fmt.Errorf("read weights: tensor %q: elements [%d, %d): want a range within %d", name, lo, hi, t.Elems)
	case room != hi-lo:
		return t, fmt.Errorf("read weights: tensor %q: elements [%d, %d): room for %d", name, lo, hi, room)
	}
	return t, nil
}

func tensorsOf(c spec.Config) map[string]spec.Tensor {
	all := map[string]spec.Tensor{}
	for _, u := range c.Units() {
		for _, t := range u.Tensors {
			all[t.Name] = t
		}
	}
	return all
}

// The folder's weights, in one file or several.
var (
	_ folderFiles = (*safetensors.File)(nil)
	_ folderFiles = (*safetensors.Sharded)(nil)
)
