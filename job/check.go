package job

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strings"
)

var nameText = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// checker finds what is wrong between fields. A check that reads a field which is already faulty says nothing more.
type checker struct {
	j      *Job
	before Faults
	faults Faults
}

func (j *Job) check(before Faults) Faults {
	c := &checker{j: j, before: before}
	c.names()
	c.data()
	c.training()
	c.workers()
	return c.faults
}

// ok says whether none of the fields has a fault of its own.
func (c *checker) ok(paths ...string) bool {
	for _, f := range c.before {
		for _, p := range paths {
			if under(f.Path, p) || under(p, f.Path) {
				return false
			}
		}
	}
	return true
}

// under says whether path is section, or a field or an element of it.
func under(path, section string) bool {
	rest, found := strings.CutPrefix(path, section)
	return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (c *checker) bad(path, format string, args ...any) {
	c.faults = append(c.faults, Fault{at: c.j.position(path), Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) names() {
	j := c.j
	if c.ok("name") && !nameText.MatchString(j.Name) {
		c.bad("name", "%.80q: want letters, digits, '.', '_' and '-', at most 63, the first a letter or digit", j.Name)
	}
	if c.ok("model.base") {
		c.place("model.base", j.Model.Base, "hf://", "preset://")
	}
	if j.Model.Tokenizer != "" {
		c.place("model.tokenizer", j.Model.Tokenizer)
	}
	c.place("checkpoint.store", j.Checkpoint.Store, "s3://", "gs://", "azblob://")
	if scheme, rest, found := strings.Cut(j.Checkpoint.Store, "://"); found && (rest == "" || strings.ContainsRune("/?", rune(rest[0]))) {
		c.bad("checkpoint.store", "%.80s: want %s://BUCKET/PREFIX", j.Checkpoint.Store, scheme)
	}
	c.place("output.dir", j.Output.Dir)
	if c.ok("output.formats") && len(j.Output.Formats) == 0 {
		c.bad("output.formats", "an empty list: want [safetensors]")
	}
}

// place refuses a path that names a kind of place which is not available.
func (c *checker) place(path, value string, available ...string) {
	scheme, _, found := strings.Cut(value, "://")
	if strings.ContainsRune(value, 0) {
		c.bad(path, "%.80q: not a path", value)
		return
	}
	if !found {
		return
	}
	for _, a := range available {
		if scheme+"://" == a {
			return
		}
	}
	want := "a local path"
	if len(available) > 0 {
		want = oneOf(append([]string{want}, available...))
	}
	for _, a := range absentSchemes {
		if scheme+"://" == a {
			c.bad(path, "%.80s: %s is not available in this version: want %s", value, a, want)
			return
		}
	}
	c.bad(path, "%.80s: want %s", value, want)
}

func (c *checker) data() {
	j := c.j
	if c.ok("data.train") && len(j.Data.Train) == 0 {
		c.bad("data.train", "an empty list: want at least one source")
	}
	if c.ok("data.eval", "data.eval_fraction") && len(j.Data.Eval) > 0 && j.Data.EvalFraction > 0 {
		c.bad("data.eval_fraction", "given together with data.eval: want one of them")
	}
	for path, sources := range map[string][]Source{"data.train": j.Data.Train, "data.eval": j.Data.Eval} {
		if !c.ok(path) {
			continue
		}
		for i, s := range sources {
			c.source(fmt.Sprintf("%s[%d]", path, i), s)
		}
	}
}

func (c *checker) source(path string, s Source) {
	c.place(path+".path", s.Path)
	switch ext := strings.ToLower(filepath.Ext(s.Path)); {
	case ext == ".parquet":
		c.bad(path+".path", "%.80s: .parquet is not available in this version: want .jsonl or .txt", s.Path)
	case ext == ".txt" && s.Format != "text":
		c.bad(path+".format", "%s of a .txt file: want text, or a .jsonl file", s.Format)
	}
	if _, err := filepath.Match(s.Path, ""); err != nil {
		c.bad(path+".path", "%.80s: not a pattern: a [ without its ]", s.Path)
	}
	suits := map[string]string{"messages": "assistant", "completion": "completion", "text": "all"}[s.Format]
	if on := c.j.Data.LossOn; c.ok("data.loss_on") && on != "" && on != "all" && on != suits {
		c.bad("data.loss_on", "%s does not suit %s, whose format is %s: want %s", on, path, s.Format, oneOf(unique(suits, "all")))
	}
}

func unique(a, b string) []string {
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

func (c *checker) training() {
	t := c.j.Train
	if c.ok("train.epochs", "train.steps") {
		switch {
		case t.Epochs == 0 && t.Steps == 0:
			c.bad("train", "neither epochs nor steps: want one of them")
		case t.Epochs > 0 && t.Steps > 0:
			c.bad("train.steps", "%d given together with train.epochs: want one of them", t.Steps)
		}
	}
	if !c.ok("train.global_batch_size", "train.micro_batch_size") {
		return
	}
	switch {
	case t.MicroBatchSize > t.GlobalBatchSize:
		c.bad("train.micro_batch_size", "%d is more than train.global_batch_size, %d", t.MicroBatchSize, t.GlobalBatchSize)
	case t.GlobalBatchSize%t.MicroBatchSize != 0:
		c.bad("train.micro_batch_size", "%d does not divide train.global_batch_size, %d", t.MicroBatchSize, t.GlobalBatchSize)
	}
	if c.ok("data.sequence_len") && int64(t.MicroBatchSize)*int64(c.j.Data.SequenceLen) > math.MaxInt32 {
		c.bad("train.micro_batch_size", "%d sequences of %d tokens: want at most %d tokens at once", t.MicroBatchSize, c.j.Data.SequenceLen, math.MaxInt32)
	}
}

func (c *checker) workers() {
	w := c.j.Workers
	if c.ok("workers.min", "workers.max") && w.Min > w.Max {
		c.bad("workers.min", "%d is more than workers.max, %d", w.Min, w.Max)
	}
}
