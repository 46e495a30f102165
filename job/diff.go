package job

import (
	"fmt"
	"reflect"
	"slices"
)

// resumable are the fields and sections that a resumed job may change and still be the same job: none of them changes a
// bit of what it computes.
var resumable = []string{
	"name",
	"sharding.stage",
	"train.gradient_checkpointing",
	"train.max_seconds",
	"workers",
	"collective",
	"recovery",
	"checkpoint",
	"eval",
	"log",
	"output",
}

// Change is one field that two jobs give differently.
type Change struct {
	Path     string
	Old, New string // as a job file writes them; "" where one job has no such field
	// SameJob says that a resumed job may have this change. Any other starts a new job from the old one's weights.
	SameJob bool
}

func (c Change) String() string {
	show := func(s string) string {
		if s == "" {
			return "not set"
		}
		return s
	}
	return fmt.Sprintf("%s: %s, was %s", c.Path, show(c.New), show(c.Old))
}

// Diff lists what changed from was to is, in the document's order. Sources count by content: a model or a data set at
// another path is a change only when its digest differs.
func Diff(was, is *Resolved) []Change {
	before, after := flatten(&was.Job), flatten(&is.Job)
	var out []Change
	note := func(path string) {
		if old, now := before.values[path], after.values[path]; old != now {
			same := slices.ContainsFunc(resumable, func(r string) bool { return under(path, r) })
			out = append(out, Change{Path: path, Old: old, New: now, SameJob: same})
		}
	}
	for _, path := range after.paths {
		note(path)
	}
	for _, path := range before.paths {
		if _, both := after.values[path]; !both {
			note(path)
		}
	}
	return out
}

// SameJob says whether a job may be resumed with these changes.
func SameJob(changes []Change) bool {
	return !slices.ContainsFunc(changes, func(c Change) bool { return !c.SameJob })
}

// flat is a job as one list of fields.
type flat struct {
	paths  []string
	values map[string]string
}

// flatten gives each set field by its path; a source's path is replaced by its digest, and the fingerprint, which is
// not the job's but the workers', is left out.
func flatten(j *Job) flat {
	f := flat{values: make(map[string]string)}
	pins := j.Resolved
	digests := map[string]string{"model.base": pins.Model, "model.tokenizer": pins.Tokenizer}
	for i, d := range pins.Train {
		digests[fmt.Sprintf("data.train[%d].path", i)] = d
	}
	for i, d := range pins.Eval {
		digests[fmt.Sprintf("data.eval[%d].path", i)] = d
	}
	put := func(path, value string) {
		if d, isSource := digests[path]; isSource {
			value = d
		}
		f.paths = append(f.paths, path)
		f.values[path] = value
	}
	var section func(path string, v reflect.Value)
	section = func(path string, v reflect.Value) {
		for _, s := range fieldsOf(v.Type()) {
			field, sub := v.Field(s.index), join(path, s.name)
			if s.unset(field) || sub == "resolved" {
				continue
			}
			switch field.Kind() {
			case reflect.Struct:
				section(sub, field)
			case reflect.Slice, reflect.Array:
				for i := range field.Len() {
					element := fmt.Sprintf("%s[%d]", sub, i)
					if e := field.Index(i); e.Kind() == reflect.Struct {
						section(element, e)
					} else {
						put(element, text(e))
					}
				}
			default:
				put(sub, text(field))
			}
		}
	}
	section("", reflect.ValueOf(j).Elem())
	return f
}
