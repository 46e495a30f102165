// Command jobdoc writes docs/job.md and docs/job.schema.json from the JSON schema that package job
// generates, so that the page, the schema and the checks have one source.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/zerofleet/zerofleet/job"
)

func main() {
	dir := flag.String("o", "docs", "the folder to write to")
	flag.Parse()
	if err := write(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "jobdoc:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	files, err := render()
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// render gives the generated files by name.
func render() (map[string][]byte, error) {
	schema, err := job.Schema()
	if err != nil {
		return nil, err
	}
	var root jsonschema.Schema
	if err := json.Unmarshal(schema, &root); err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	var page bytes.Buffer
	page.WriteString(preamble)
	section(&page, "", &root)
	return map[string][]byte{"job.schema.json": schema, "job.md": page.Bytes()}, nil
}

const preamble = `# job.yaml

<!-- Written by tools/jobdoc from the struct tags of package job. Change those, then run make generate. -->

One document says what to train and how. ` + "`coordinator launch job.yaml`" + ` runs it, ` + "`coordinator plan job.yaml`" + ` says what it
needs. It is read strictly: an unknown field, a wrong type or a combination that cannot be is an error with file, line and column,
all of them at once, and exit status 2. A field of a part that this version does not have is refused, never ignored.

- ` + "`--set a.b=value`" + ` lays a value over the file, ` + "`--set data.train[0].path=x.jsonl`" + ` over an element of a list. The value is YAML.
- Paths are relative to the working directory.
- *required* must be written; a dash is "not set", which ` + "`null`" + ` says too.
- Bytes are a number, or a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB. Times are in seconds.
- Anchors, aliases, tags and files above 64 KiB are refused.
- [job.schema.json](job.schema.json) is the same as a JSON schema, for editors.

The folder of a run keeps ` + "`job.resolved.yaml`" + `: every default written out, and under ` + "`resolved`" + ` the content digests of model and data and
the kernels' fingerprint. Submitted again it repeats the run, or says which source has changed.

A run that is resumed may change name, sharding.stage, train.gradient_checkpointing, train.max_seconds, workers, collective,
checkpoint, eval, log and output. Any other change starts a new job from the old one's weights.
`

// section writes a table of a section's plain fields, then its sections.
func section(w *bytes.Buffer, path string, s *jsonschema.Schema) {
	type sub struct {
		path string
		s    *jsonschema.Schema
	}
	var subs []sub
	header := false
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		name, f := p.Key, p.Value
		full := strings.TrimPrefix(path+"."+name, ".")
		if f.Properties != nil {
			subs = append(subs, sub{full, f})
			continue
		}
		if !header {
			header = true
			if path != "" {
				fmt.Fprintf(w, "\n## %s\n\n%s.\n", path, strings.ToUpper(s.Description[:1])+s.Description[1:])
			}
			w.WriteString("\n| field | type | default | meaning |\n|---|---|---|---|\n")
		}
		element := list(f)
		if element != nil && element.Properties != nil {
			subs = append(subs, sub{full + "[]", element})
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", full, typeText(f), defaultText(s, name, f), cell(f.Description))
	}
	for i, x := range subs {
		if strings.HasSuffix(x.path, "[]") {
			x.s.Description = "one element of the list"
			if i > 0 && reflect.DeepEqual(typesOf(x.s), typesOf(subs[i-1].s)) {
				fmt.Fprintf(w, "\n## %s\n\nAs %s.\n", x.path, subs[i-1].path)
				continue
			}
		}
		section(w, x.path, x.s)
	}
}

// typesOf is the schema of each field by name.
func typesOf(s *jsonschema.Schema) map[string]*jsonschema.Schema {
	out := make(map[string]*jsonschema.Schema)
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		out[p.Key] = p.Value
	}
	return out
}

// list is the schema of a list's elements, or nil.
func list(f *jsonschema.Schema) *jsonschema.Schema { return unwrap(f).Items }

// unwrap takes a field out of its "or null".
func unwrap(f *jsonschema.Schema) *jsonschema.Schema {
	if len(f.AnyOf) == 2 && f.AnyOf[1].Type == "null" {
		return f.AnyOf[0]
	}
	return f
}

func typeText(f *jsonschema.Schema) string {
	f = unwrap(f)
	if f.Items != nil {
		return "list of " + typeText(f.Items)
	}
	if len(f.Enum) > 0 {
		var values []string
		for _, e := range f.Enum {
			if e != nil {
				values = append(values, fmt.Sprintf("`%v`", e))
			}
		}
		return strings.Join(values, ", ")
	}
	if len(f.AnyOf) == 2 { // a number, or text with a unit
		return "bytes"
	}
	if f.Properties != nil {
		return "section"
	}
	name := map[string]string{"integer": "whole number", "string": "text", "boolean": "true or false"}[f.Type]
	if name == "" {
		name = f.Type
	}
	return name + bounds(f)
}

func bounds(f *jsonschema.Schema) string {
	var parts []string
	for _, b := range []struct {
		sign  string
		value json.Number
	}{{">", f.ExclusiveMinimum}, {"≥", f.Minimum}, {"<", f.ExclusiveMaximum}, {"≤", f.Maximum}} {
		if b.value != "" {
			parts = append(parts, b.sign+" "+b.value.String())
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, ", ")
}

func defaultText(parent *jsonschema.Schema, name string, f *jsonschema.Schema) string {
	for _, r := range parent.Required {
		if r == name {
			return "*required*"
		}
	}
	switch {
	case f.Default != nil:
		text, err := json.Marshal(f.Default)
		if err != nil {
			return cell(fmt.Sprint(f.Default))
		}
		return "`" + strings.ReplaceAll(strings.Trim(string(text), `"`), `"`, "") + "`"
	case f.Comments != "":
		return cell(f.Comments)
	}
	return "–"
}

var cellEscapes = strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`)

func cell(text string) string { return cellEscapes.Replace(text) }
