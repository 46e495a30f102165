package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names that Hugging Face gives to a model's weights in its folder.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

// maxShards bounds the files of one index; the largest models have a few hundred.
const maxShards = 4096

// Sharded is a model whose tensors are spread over several files. Its methods may be called
// concurrently.
type Sharded struct {
	files  []*File
	byName map[string]*File
}

// Index is the content of model.safetensors.index.json.
type Index struct {
	Metadata struct {
		TotalBytes int64 `json:"total_size"` // of all tensors, without headers
	} `json:"metadata"`
	Files map[string]string `json:"weight_map"` // tensor name to file name
}

// OpenSharded maps every file that dir's index names. Where a tensor stands in several, the
// index decides. An error names the file and the tensor. The caller closes the Sharded.
func OpenSharded(dir string) (*Sharded, error) {
	path := filepath.Join(dir, IndexName)
	index, err := readIndex(path)
	if err != nil {
		return nil, fmt.Errorf("open safetensors index %s: %w", path, err)
	}
	s := &Sharded{byName: make(map[string]*File, len(index.Files))}
	if err := s.open(dir, index); err != nil {
		return nil, errors.Join(fmt.Errorf("open safetensors index %s: %w", path, err), s.Close())
	}
	return s, nil
}

func readIndex(path string) (Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return Index{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxHeaderBytes+1))
	if err != nil {
		return Index{}, err
	}
	if len(b) > MaxHeaderBytes {
		return Index{}, fmt.Errorf("%w: more than %d bytes", ErrMalformed, MaxHeaderBytes)
	}
	return parseIndex(b)
}

func parseIndex(b []byte) (Index, error) {
	var index Index
	if err := json.Unmarshal(b, &index); err != nil {
		return Index{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(index.Files) == 0 {
		return Index{}, fmt.Errorf("%w: weight_map: empty or missing", ErrMalformed)
	}
	shards := map[string]bool{}
	for name, file := range index.Files {
		if file == "" || file == "." || file == ".." || strings.ContainsAny(file, `/\`) || strings.ContainsRune(file, 0) {
			return Index{}, fmt.Errorf("%w: weight_map: tensor %q: file %q: want a name in the index's folder", ErrMalformed, name, file)
		}
		if shards[file] = true; len(shards) > maxShards {
			return Index{}, fmt.Errorf("%w: weight_map: more than %d files", ErrMalformed, maxShards)
		}
	}
	return index, nil
}

func (s *Sharded) open(dir string, index Index) error {
	shards := map[string]bool{}
	for _, file := range index.Files {
		shards[file] = true
	}
	names := make([]string, 0, len(shards))
	for file := range shards {
		names = append(names, file)
	}
	slices.Sort(names)
	for _, file := range names {
		f, err := Open(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		s.files = append(s.files, f)
		for _, t := range f.tensors {
			if at, listed := index.Files[t.Name]; listed && at != file {
				continue
			}
			if other := s.byName[t.Name]; other != nil {
				return fmt.Errorf("%w: tensor %q stands in %s and %s, and the index names neither", ErrMalformed, t.Name, other.Path(), f.Path())
			}
			s.byName[t.Name] = f
		}
	}
	for _, name := range sortedKeys(index.Files) {
		if s.byName[name] == nil {
			return fmt.Errorf("%w: tensor %q is not in %s", ErrMalformed, name, index.Files[name])
		}
	}
	return nil
}

// Tensors lists the tensors file by file, in each in the order of their place.
func (s *Sharded) Tensors() []Tensor {
	var all []Tensor
	for _, f := range s.files {
		for _, t := range f.tensors {
			if s.byName[t.Name] == f {
				all = append(all, t)
			}
		}
	}
	return all
}

// Tensor finds a tensor by name.
func (s *Sharded) Tensor(name string) (Tensor, bool) {
	f := s.byName[name]
	if f == nil {
		return Tensor{}, false
	}
	return f.Tensor(name)
}

// ReadF32 is File.ReadF32 on the file that holds the tensor.
func (s *Sharded) ReadF32(name string, lo, hi int, dst []float32) error {
	f := s.byName[name]
	if f == nil {
		return fmt.Errorf("read %s: no tensor %q", IndexName, name)
	}
	return f.ReadF32(name, lo, hi, dst)
}

// Close closes every file.
func (s *Sharded) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
