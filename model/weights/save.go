package weights

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
)

// maxShardBytes is where Save begins another file, as transformers does.
const maxShardBytes = 5_000_000_000

// ReadFunc gives elements [lo, hi) of a tensor as f32. Save asks for every element of the
// configuration's tensors once, in canonical order.
type ReadFunc func(ctx context.Context, tensor string, lo, hi int, dst []float32) error

// Extra is a file that goes into the folder as it is.
type Extra struct {
	Name string // in the folder
	Path string // copied from there; "" means Data is the content
	Data []byte
}

// Save writes a Hugging Face folder: config.json, generation_config.json, the weights in
// dtype (f32, bf16 or f16) as model.safetensors or, above 5 GB, as several files with an
// index, and the extra files. An extra generation_config.json replaces the one that the
// configuration gives.
//
// The folder appears whole or not at all: everything is written and made durable under
// another name first. An earlier model folder of that name is replaced; a folder that holds
// anything else is left alone, and the error names what it holds. Memory stays below 5 MB,
// whatever the model.
func Save(ctx context.Context, dir string, c spec.Config, dtype string, read ReadFunc, extra []Extra) error {
	return save(ctx, dir, c, dtype, read, extra, maxShardBytes)
}

func save(ctx context.Context, dir string, c spec.Config, dtype string, read ReadFunc, extra []Extra, shardBytes int64) error {
	dir = filepath.Clean(dir)
	if err := Replaceable(dir); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	files, err := smallFiles(c, dtype, extra)
	if err != nil {
		return fmt.Errorf("save model %s: %w", dir, err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".*.part")
	if err != nil {
		return fmt.Errorf("save model %s: %w", dir, err)
	}
	w := folderWriter{dir: temp, config: c, dtype: dtypes[dtype], read: read}
	if err := w.write(ctx, files, shardBytes); err != nil {
		return errors.Join(fmt.Errorf("save model %s: %w", dir, err), os.RemoveAll(temp))
	}
	if err := install(temp, dir); err != nil {
		return errors.Join(fmt.Errorf("save model %s: %w", dir, err), os.RemoveAll(temp))
	}
	return nil
}

var dtypes = map[string]safetensors.DType{"f32": safetensors.F32, "bf16": safetensors.BF16, "f16": safetensors.F16}

// smallFiles lists everything but the weights, after checking the extra files' names.
func smallFiles(c spec.Config, dtype string, extra []Extra) ([]Extra, error) {
	config, err := c.HuggingFace(dtype)
	if err != nil {
		return nil, err
	}
	generation, err := c.GenerationConfig()
	if err != nil {
		return nil, err
	}
	files := []Extra{{Name: "config.json", Data: config}}
	seen := map[string]bool{"config.json": true}
	for _, e := range extra {
		if seen[e.Name] || e.Name != filepath.Base(e.Name) || !ours(e.Name) || strings.Contains(e.Name, ".safetensors") {
			return nil, fmt.Errorf("extra file %q: not a tokenizer's file, or there twice", e.Name)
		}
		seen[e.Name] = true
		files = append(files, e)
	}
	if !seen["generation_config.json"] {
		files = append(files, Extra{Name: "generation_config.json", Data: generation})
	}
	return files, nil
}

// folderWriter fills one folder.
type folderWriter struct {
	dir    string
	config spec.Config
	dtype  safetensors.DType
	read   ReadFunc
	buf    []float32
}

func (w *folderWriter) write(ctx context.Context, files []Extra, shardBytes int64) error {
	if err := os.Chmod(w.dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := w.small(ctx, f); err != nil {
			return err
		}
	}
	w.buf = make([]float32, chunkElems)
	shards := w.shards(shardBytes)
	if len(shards) == 1 {
		return w.weights(ctx, safetensors.SingleName, shards[0])
	}
	var index safetensors.Index
	index.Files = map[string]string{}
	for i, tensors := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := w.weights(ctx, name, tensors); err != nil {
			return err
		}
		for _, t := range tensors {
			index.Files[t.Name] = name
			index.Metadata.TotalBytes += int64(t.Elems) * int64(w.dtype.Bytes())
		}
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return w.small(ctx, Extra{Name: safetensors.IndexName, Data: append(b, '\n')})
}

// shards cuts the tensors, in canonical order, into files of at most maxBytes each; a larger
// tensor has a file of its own.
func (w *folderWriter) shards(maxBytes int64) [][]spec.Tensor {
	shards := [][]spec.Tensor{nil}
	var have int64
	for _, u := range w.config.Units() {
		for _, t := range u.Tensors {
			bytes := int64(t.Elems) * int64(w.dtype.Bytes())
			if have > 0 && have+bytes > maxBytes {
				shards, have = append(shards, nil), 0
			}
			shards[len(shards)-1] = append(shards[len(shards)-1], t)
			have += bytes
		}
	}
	return shards
}

// weights writes one safetensors file, a chunk at a time.
func (w *folderWriter) weights(ctx context.Context, name string, tensors []spec.Tensor) error {
	infos := make([]safetensors.TensorInfo, 0, len(tensors))
	for _, t := range tensors {
		infos = append(infos, safetensors.TensorInfo{Name: t.Name, DType: w.dtype, Shape: t.Shape})
	}
	out, err := safetensors.Create(filepath.Join(w.dir, name), infos, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	defer out.Abort() // does nothing after Commit
	for _, t := range tensors {
		err := inChunks(ctx, 0, t.Elems, func(lo, hi int) error {
			part := w.buf[:hi-lo]
			if err := w.read(ctx, t.Name, lo, hi, part); err != nil {
				return err
			}
			return out.WriteF32(t.Name, part)
		})
		if err != nil {
			return err
		}
	}
	return out.Commit()
}

// small writes one file and makes it durable.
func (w *folderWriter) small(ctx context.Context, e Extra) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	var in io.Reader = strings.NewReader(string(e.Data))
	if e.Path != "" {
		f, err := os.Open(e.Path)
		if err != nil {
			return fmt.Errorf("copy %s: %w", e.Name, err)
		}
		defer f.Close()
		in = f
	}
	out, err := os.OpenFile(filepath.Join(w.dir, e.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", e.Name, err), out.Close())
	}
	return errors.Join(out.Sync(), out.Close())
}
