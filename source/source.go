// Package source turns what a job names into local files with a content digest: a model is
// a Hugging Face folder, a .gguf file or hf://org/name[@revision], data are files by path
// or glob pattern.
//
// Call Model or Data. What comes back says where the files lie and what they hold; keep its
// Digest with the job, and compare it when the job goes on: another digest means that the
// source changed.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// The forms of a reference that have a scheme.
const (
	PresetScheme = "preset://" // a model that is made, not read: no files
	HubScheme    = "hf://"     // a model on the Hugging Face hub or a server that speaks like it
)

// DefaultEndpoint is the hub that hf:// means unless Options name another.
const DefaultEndpoint = "https://huggingface.co"

// Options says how to reach a hub. Local sources need none of it.
type Options struct {
	Endpoint string // the hub's address; "" means DefaultEndpoint. Callers pass HF_ENDPOINT
	Token    string // sent to Endpoint's host alone; "" means none. Callers pass HF_TOKEN
	CacheDir string // where downloads are kept; required for hf://

	Client   *http.Client                         // nil means a default one; needs no timeout of its own. Its redirects are checked here
	Progress func(file string, done, total int64) // called now and then, in bytes; nil means none
	Notify   func(message string)                 // told what is waited for or tried again; nil means nobody
	retries  retryPolicy                          // zero means the default
}

// Source is what a reference stands for.
type Source struct {
	Ref    string // as it was given
	Pinned string // the same thing for good: hf:// with the commit; other forms as given
	Path   string // a model's folder, .gguf file or preset://name, absolute; "" for data
	Files  []File // ascending by Name; empty for a preset
}

// File is one file of a source.
type File struct {
	Name   string // within the source: what the digest knows it by
	Path   string // absolute
	Bytes  int64
	SHA256 string // of the content, lower-case hex
}

// Digest is "sha256:" and the SHA-256, in hex, over one line "name NUL bytes NUL sha256 LF"
// per file in ascending order of names. It does not depend on where the files lie.
func (s Source) Digest() string {
	h := sha256.New()
	for _, f := range s.Files {
		fmt.Fprintf(h, "%s\x00%d\x00%s\n", f.Name, f.Bytes, f.SHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Bytes is the length of all files together.
func (s Source) Bytes() int64 {
	var n int64
	for _, f := range s.Files {
		n += f.Bytes
	}
	return n
}

// Model resolves a model: a folder or .gguf file, hf://org/name[@revision], which is
// downloaded into o.CacheDir unless it is there, or preset://name, which has no files. It
// reads every file once, for the digest. An error names the reference or the file.
func Model(ctx context.Context, ref string, o Options) (Source, error) {
	switch {
	case ref == "":
		return Source{}, fmt.Errorf("model: empty: want a folder, a .gguf file, %sorg/name or %sname", HubScheme, PresetScheme)
	case strings.HasPrefix(ref, PresetScheme):
		return Source{Ref: ref, Pinned: ref, Path: ref}, nil
	case strings.HasPrefix(ref, HubScheme):
		return hubModel(ctx, ref, o)
	case strings.Contains(ref, "://"):
		return Source{}, fmt.Errorf("model %q: want a folder, a .gguf file, %sorg/name or %sname", ref, HubScheme, PresetScheme)
	}
	return localModel(ctx, ref)
}

// newFile stats and hashes one file.
func newFile(ctx context.Context, name, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s: not a regular file", path)
	}
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, f})
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", path, err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, Path: abs, Bytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// contextReader ends with the context's error once that is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
