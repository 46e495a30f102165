package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files, by slash-separated name, into a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(s Source) string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "%s ", f.Name)
	}
	return strings.TrimSpace(b.String())
}

func TestModelFolder(t *testing.T) {
	const index = `{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}`
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string // names, or what the error says
		fails bool
	}{
		{"single", map[string]string{"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t", "README.md": "r", "x/y": "z"},
			"config.json model.safetensors tokenizer.json", false},
		{"single before sharded", map[string]string{"config.json": "{}", "model.safetensors": "w", indexName: index}, "config.json model.safetensors", false},
		{"sharded", map[string]string{"config.json": "{}", indexName: index, "model-1.safetensors": "1", "model-2.safetensors": "2", "model-3.safetensors": "3"},
			"config.json model-1.safetensors model-2.safetensors model.safetensors.index.json", false},
		{"no config", map[string]string{"model.safetensors": "w"}, "config.json: file does not exist", true},
		{"no weights", map[string]string{"config.json": "{}", "pytorch_model.bin": "w"}, "neither model.safetensors nor model.safetensors.index.json: only safetensors weights are read", true},
		{"missing shard", map[string]string{"config.json": "{}", indexName: index, "model-1.safetensors": "1"}, "model-2.safetensors: named by model.safetensors.index.json: file does not exist", true},
		{"broken index", map[string]string{"config.json": "{}", indexName: "{"}, "model.safetensors.index.json: unexpected end", true},
		{"empty index", map[string]string{"config.json": "{}", indexName: "{}"}, "weight_map: empty or missing", true},
		{"index leads out", map[string]string{"config.json": "{}", indexName: `{"weight_map": {"a": "../x.safetensors"}}`}, `tensor "a": file "../x.safetensors"`, true},
		{"index names another kind", map[string]string{"config.json": "{}", indexName: `{"weight_map": {"a": "config.json"}}`}, `file "config.json": want the name of a .safetensors file`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.files)
			s, err := Model(t.Context(), dir, Options{})
			if tt.fails {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
					t.Errorf("got %v, want the folder and %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := names(s); got != tt.want || s.Path != dir {
				t.Errorf("got %s: %s, want %s", s.Path, got, tt.want)
			}
		})
	}
}

func TestModelFile(t *testing.T) {
	dir := tree(t, map[string]string{"m.gguf": "abc", "m.bin": "x"})
	s, err := Model(t.Context(), filepath.Join(dir, "m.gguf"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := File{Name: "m.gguf", Path: filepath.Join(dir, "m.gguf"), Bytes: 3, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	if len(s.Files) != 1 || s.Files[0] != want || s.Path != want.Path || s.Bytes() != 3 {
		t.Errorf("got %+v, want %+v", s, want)
	}
	for ref, want := range map[string]string{
		filepath.Join(dir, "m.bin"): "m.bin: want a Hugging Face folder or a .gguf file",
		filepath.Join(dir, "none"):  filepath.Join(dir, "none") + ": file does not exist",
		"":                          "model: empty",
		"s3://bucket/x":             `model "s3://bucket/x": want a folder`,
		"hf://org":                  `model "hf://org": want hf://org/name`,
		"hf://../x":                 "want hf://org/name",
		"hf://org/name@":            "want hf://org/name",
		"hf://org/name/more":        "want hf://org/name",
		"hf://org/name":             "no cache folder",
	} {
		if _, err := Model(t.Context(), ref, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", ref, err, want)
		}
	}
	if s, err := Model(t.Context(), "preset://tiny", Options{}); err != nil || s.Path != "preset://tiny" || len(s.Files) != 0 {
		t.Errorf("a preset: got %+v, %v", s, err)
	}
}

// TestDigest: a digest changes with any content, name or file, and with nothing else.
func TestDigest(t *testing.T) {
	digest := func(files map[string]string) string {
		t.Helper()
		s, err := Data(t.Context(), filepath.Join(tree(t, files), "*"))
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest()
	}
	base := map[string]string{"a": "1", "b": "23"}
	want := digest(base)
	// Computed apart: printf 'a\0001\000%s\nb\0002\000%s\n' $(printf 1|sha256sum) $(printf 23|sha256sum) | sha256sum
	if want != "sha256:078b372e4454a893d7c59782991551c67bdf30b739f82947e70cc7f6c07adb04" {
		t.Errorf("digest of a=1, b=23: got %s", want)
	}
	if got := digest(base); got != want {
		t.Errorf("the same files elsewhere: got %s, want %s", got, want)
	}
	for name, files := range map[string]map[string]string{
		"content": {"a": "1", "b": "24"}, "name": {"a": "1", "c": "23"}, "fewer": {"a": "1"}, "more": {"a": "1", "b": "23", "c": ""}, "moved byte": {"a": "12", "b": "3"},
	} {
		if digest(files) == want {
			t.Errorf("another %s, the same digest", name)
		}
	}
}

func TestData(t *testing.T) {
	dir := tree(t, map[string]string{"b.jsonl": "b", "a.jsonl": "a", "c.txt": "c", "x/a.jsonl": "xa", "y/a.jsonl": "ya", "d.jsonl/z": "z", "odd[1].txt": "o"})
	for pattern, want := range map[string]string{
		"a.jsonl":     "a.jsonl",
		"*.jsonl":     "a.jsonl b.jsonl",
		"?/*.jsonl":   "x/a.jsonl y/a.jsonl",
		"x/*":         "a.jsonl",
		"[ab].jsonl":  "a.jsonl b.jsonl",
		"odd[1].txt":  "odd[1].txt",
		"./x/a.jsonl": "a.jsonl",
	} {
		s, err := Data(t.Context(), filepath.Join(dir, pattern))
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		if got := names(s); got != want {
			t.Errorf("%s: got %s, want %s", pattern, got, want)
		}
	}
	for pattern, want := range map[string]string{
		filepath.Join(dir, "none.jsonl"): "none.jsonl: no such file",
		filepath.Join(dir, "*.parquet"):  "*.parquet\": no file matches",
		filepath.Join(dir, "d.*/"):       "no file matches",
		filepath.Join(dir, "["):          "syntax error in pattern",
		filepath.Join(dir, "x"):          "is a folder: want files, such as",
		"":                               "want a path or a glob pattern",
		"s3://bucket/x":                  "want a path or a glob pattern",
	} {
		if _, err := Data(t.Context(), pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", pattern, err, want)
		}
	}
	if _, err := Data(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := tree(t, map[string]string{"a": "1"})
	if _, err := Data(ctx, filepath.Join(dir, "a")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}
