package job

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// Load reads the job file at path, lays the options of sets over it in order (each "a.b=value", the value YAML), fills
// in the defaults and checks everything. The error is Faults when the content is wrong.
//
// Paths inside the file are left as written: relative ones are relative to the working directory.
func Load(path string, sets []string) (*Job, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return Parse(path, text, sets)
}

// unreadable says what is wrong with a file without naming it twice.
func unreadable(path string, err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return Fault{at: position{source: path}, Message: err.Error()}
}

// Parse is Load of a text; source names it in errors, and its base name, without the extension, is the job's
// name when the text gives none.
func Parse(source string, text []byte, sets []string) (*Job, error) {
	r := reader{source: source, inFile: true}
	root := r.read(text)
	if root == nil {
		return nil, r.faults
	}
	if root.kind != mapping && root.kind != null {
		return nil, Fault{at: root.at, Message: root.describe() + ": want sections, such as model: and data:"}
	}
	d := decoder{faults: r.faults, at: map[string]position{"": r.place(1, 1)}}
	for i, option := range sets {
		d.faults = append(d.faults, set(root, option, i+1)...)
	}
	j := new(Job)
	d.section("", root, reflect.ValueOf(j).Elem())
	j.at = d.at
	j.settle(source)
	d.faults = append(d.faults, j.check(d.faults)...)
	if len(d.faults) > 0 {
		return nil, d.faults.sorted()
	}
	return j, nil
}

// settle fills in the defaults that depend on other fields.
func (j *Job) settle(source string) {
	if j.Name == "" {
		base := filepath.Base(source)
		j.Name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	for _, sources := range [][]Source{j.Data.Train, j.Data.Eval} {
		for i := range sources {
			if s := &sources[i]; s.Format == "" {
				s.Format = "messages"
				if strings.HasSuffix(s.Path, ".txt") {
					s.Format = "text"
				}
			}
		}
	}
	if j.Sharding.Wire.Parameters == "" {
		j.Sharding.Wire.Parameters = j.Train.Precision
	}
	if j.Output.Dir == "" {
		j.Output.Dir = filepath.Join("runs", j.Name)
	}
	if j.Checkpoint.Store == "" {
		j.Checkpoint.Store = filepath.Join(j.Output.Dir, "checkpoints")
	}
}
