package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names in a model's folder.
const (
	configName = "config.json"
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
)

// Companions are the files of a model's folder that go with its weights and configuration
// where they exist: the tokenizer's, and how text is generated.
var Companions = []string{
	"added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
	"special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
}

// maxIndexBytes bounds the index of a sharded model.
const maxIndexBytes = 100_000_000

// localModel resolves a folder or a .gguf file.
func localModel(ctx context.Context, ref string) (Source, error) {
	info, err := os.Stat(ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Source{}, fmt.Errorf("model %s: %w", ref, fs.ErrNotExist)
	case err != nil:
		return Source{}, fmt.Errorf("model: %w", err)
	case info.IsDir():
		return folder(ctx, ref, ref)
	case filepath.Ext(ref) != ".gguf":
		return Source{}, fmt.Errorf("model %s: want a Hugging Face folder or a .gguf file", ref)
	}
	f, err := newFile(ctx, filepath.Base(ref), ref)
	if err != nil {
		return Source{}, fmt.Errorf("model: %w", err)
	}
	return Source{Ref: ref, Pinned: ref, Path: f.Path, Files: []File{f}}, nil
}

// folder resolves a Hugging Face folder: only the files that make the model count.
func folder(ctx context.Context, ref, dir string) (Source, error) {
	names, err := modelFiles(
		func(name string) bool {
			info, err := os.Stat(filepath.Join(dir, name))
			return err == nil && !info.IsDir()
		},
		func() ([]byte, error) { return readBounded(filepath.Join(dir, indexName), maxIndexBytes) },
	)
	if err != nil {
		return Source{}, fmt.Errorf("model %s: %w", dir, err)
	}
	s := Source{Ref: ref, Pinned: ref}
	if s.Path, err = filepath.Abs(dir); err != nil {
		return Source{}, fmt.Errorf("model: %w", err)
	}
	for _, name := range names {
		f, err := newFile(ctx, name, filepath.Join(dir, name))
		if err != nil {
			return Source{}, fmt.Errorf("model: %w", err)
		}
		s.Files = append(s.Files, f)
	}
	return s, nil
}

// modelFiles lists, in ascending order, the files of a model's folder: its configuration,
// its weights in one file or, without that, by its index, and its companions.
func modelFiles(has func(name string) bool, readIndex func() ([]byte, error)) ([]string, error) {
	if !has(configName) {
		return nil, fmt.Errorf("%s: %w", configName, fs.ErrNotExist)
	}
	names := []string{configName}
	switch {
	case has(singleName):
		names = append(names, singleName)
	case has(indexName):
		index, err := readIndex()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", indexName, err)
		}
		shards, err := indexed(index)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", indexName, err)
		}
		names = append(append(names, indexName), shards...)
		for _, shard := range shards {
			if !has(shard) {
				return nil, fmt.Errorf("%s: named by %s: %w", shard, indexName, fs.ErrNotExist)
			}
		}
	default:
		return nil, fmt.Errorf("neither %s nor %s: only safetensors weights are read: %w", singleName, indexName, fs.ErrNotExist)
	}
	for _, name := range Companions {
		if has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// indexed lists the files that a model's index names, in ascending order.
func indexed(index []byte) ([]string, error) {
	var in struct {
		Files map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(index, &in); err != nil {
		return nil, err
	}
	if len(in.Files) == 0 {
		return nil, errors.New("weight_map: empty or missing")
	}
	var shards []string
	seen := map[string]bool{}
	for tensor, name := range in.Files {
		if !plainName(name) || filepath.Ext(name) != ".safetensors" {
			return nil, fmt.Errorf("weight_map: tensor %q: file %q: want the name of a .safetensors file beside it", tensor, name)
		}
		if !seen[name] {
			seen[name] = true
			shards = append(shards, name)
		}
	}
	slices.Sort(shards)
	return shards, nil
}

// plainName tells whether a name that came from outside stays in its folder and is not
// hidden there.
func plainName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\\x00")
}

// Data resolves data files: one path, or a glob pattern as of path/filepath.Match. Folders
// that match are left out. An error names the path, or the pattern that nothing matches.
func Data(ctx context.Context, pattern string) (Source, error) {
	if pattern == "" || strings.Contains(pattern, "://") {
		return Source{}, fmt.Errorf("data %q: want a path or a glob pattern", pattern)
	}
	paths, base := []string{pattern}, filepath.Dir(pattern)
	if at := strings.IndexAny(pattern, `*?[`); at >= 0 && !exists(pattern) {
		var err error
		if paths, err = filepath.Glob(pattern); err != nil {
			return Source{}, fmt.Errorf("data %q: %w", pattern, err)
		}
		base = filepath.Dir(pattern[:at] + "x") // the folder above the first pattern
		paths = slices.DeleteFunc(paths, isFolder)
		if len(paths) == 0 {
			return Source{}, fmt.Errorf("data %q: no file matches", pattern)
		}
	} else if isFolder(pattern) {
		return Source{}, fmt.Errorf("data %s: is a folder: want files, such as %s", pattern, filepath.Join(pattern, "*.jsonl"))
	}
	s := Source{Ref: pattern, Pinned: pattern}
	for _, path := range paths {
		name, err := filepath.Rel(base, path)
		if err != nil {
			return Source{}, fmt.Errorf("data: %w", err)
		}
		f, err := newFile(ctx, filepath.ToSlash(name), path)
		if err != nil {
			return Source{}, fmt.Errorf("data: %w", err)
		}
		s.Files = append(s.Files, f)
	}
	slices.SortFunc(s.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func readBounded(path string, maxBytes int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxBytes {
		return nil, fmt.Errorf("%s: %d bytes: want at most %d", path, info.Size(), maxBytes)
	}
	return os.ReadFile(path)
}
