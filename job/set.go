package job

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var setStep = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)((?:\[[0-9]{1,6}\])*)$`)

// set lays one option, path=value, over the document: a.b=c, a.list[0].b=c. The value is YAML. Sections on
// the way are made when the document lacks them; a list's element must exist.
func set(root *node, option string, order int) Faults {
	at := position{source: "--set " + option, order: order}
	bad := func(path, format string, args ...any) Faults {
		return Faults{{at: at, Path: path, Message: fmt.Sprintf(format, args...)}}
	}
	path, text, found := strings.Cut(option, "=")
	path = strings.TrimSpace(path)
	if !found || path == "" {
		return bad("", "want a.b=value")
	}
	r := reader{source: at.source, order: order}
	value := r.read([]byte(text))
	if len(r.faults) > 0 {
		for i := range r.faults {
			r.faults[i].Path = path
		}
		return r.faults
	}

	steps := strings.Split(path, ".")
	for _, step := range steps {
		if !setStep.MatchString(step) {
			return bad(path, "%q: want a field's name, such as train.steps or data.train[0].path", step)
		}
	}
	here, walked := &root, ""
	for _, step := range steps {
		m := setStep.FindStringSubmatch(step)
		n := *here
		if n.kind == null {
			*n = node{kind: mapping, at: at}
		}
		if n.kind != mapping {
			return bad(path, "%s is %s, not a section", walked, n.describe())
		}
		walked = join(walked, m[1])
		f := n.field(m[1])
		if f == nil {
			n.fields = append(n.fields, field{name: m[1], at: at, value: &node{at: at}})
			f = &n.fields[len(n.fields)-1]
		}
		if len(walked) == len(path) {
			f.at = at
		}
		here = &f.value
		for index := range strings.FieldsFuncSeq(m[2], func(c rune) bool { return c == '[' || c == ']' }) {
			i, _ := strconv.Atoi(index) // at most six digits
			if l := *here; l.kind != list || i >= len(l.items) {
				return bad(path, "%s has no element %d", walked, i)
			}
			walked += "[" + index + "]"
			here = &(*here).items[i]
		}
	}
	*here = value
	return nil
}
