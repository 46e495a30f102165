// Package inputs opens what a job names: its model, its tokenizer and its data. It needs no kernels, so the coordinator
// checks a job with it before anything starts, and each worker opens the same things with it.
package inputs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/zerofleet/zerofleet/gguf"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/source"
	"github.com/zerofleet/zerofleet/tokenizer"
)

// ErrTokenizer is wrapped by OpenModel's errors that are about the tokenizer: model.tokenizer is at fault, where it is set.
var ErrTokenizer = errors.New("bad tokenizer")

// badTokenizer says what err says, and is an ErrTokenizer.
type badTokenizer struct{ error }

func (badTokenizer) Is(target error) bool { return target == ErrTokenizer }
func (b badTokenizer) Unwrap() error      { return b.error }

// Model is a base model that can be read.
type Model struct {
	Path      string // a folder, a .gguf file, or preset://name
	Weights   weights.Source
	Tokenizer *tokenizer.Tokenizer
}

// Config describes the model.
func (m *Model) Config() spec.Config { return m.Weights.Config() }

// Close closes the model's files.
func (m *Model) Close() error { return m.Weights.Close() }

// Hub is how models of hf:// are reached: HF_ENDPOINT, HF_TOKEN, and a cache in the user's cache folder.
func Hub() source.Options {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache")
	}
	return source.Options{Endpoint: os.Getenv("HF_ENDPOINT"), Token: os.Getenv("HF_TOKEN"), CacheDir: filepath.Join(cache, "zerofleet")}
}

// Local is where a model reference lies on this machine. What hf:// names is downloaded unless it is there already.
func Local(ctx context.Context, ref string) (string, error) {
	if !strings.HasPrefix(ref, source.HubScheme) {
		return ref, nil
	}
	s, err := source.Model(ctx, ref, Hub())
	return s.Path, err
}

// OpenModel opens the job's base model and its tokenizer, and checks that they belong together.
func OpenModel(ctx context.Context, j *job.Job) (*Model, error) {
	path, err := Local(ctx, j.Model.Base)
	if err != nil {
		return nil, err
	}
	w, err := weights.Open(path, weights.Options{Seed: j.Seed})
	if err != nil {
		return nil, err
	}
	m := &Model{Path: path, Weights: w}
	from := path
	if j.Model.Tokenizer != "" {
		if from, err = Local(ctx, j.Model.Tokenizer); err != nil {
			return nil, errors.Join(badTokenizer{err}, w.Close())
		}
	}
	m.Tokenizer, err = OpenTokenizer(from)
	if err == nil {
		err = m.Tokenizer.CheckVocab(w.Config().Vocab)
	}
	if err != nil {
		return nil, errors.Join(badTokenizer{err}, w.Close())
	}
	return m, nil
}

// OpenTokenizer opens the tokenizer of a model's folder or .gguf file, or a preset's.
func OpenTokenizer(path string) (*tokenizer.Tokenizer, error) {
	switch {
	case strings.HasPrefix(path, spec.PresetScheme):
		return tokenizer.Bytes(), nil
	case filepath.Ext(path) == ".gguf":
		f, err := gguf.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return tokenizer.FromGGUF(f.Metadata())
	case filepath.Base(path) == "tokenizer.json":
		path = filepath.Dir(path)
	}
	t, err := tokenizer.Load(path)
	if err != nil {
		return nil, fmt.Errorf("%w (model.tokenizer can name another folder)", err)
	}
	return t, nil
}
