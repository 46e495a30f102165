package job

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// fieldSpec is what a struct field's tags say; see Job.
type fieldSpec struct {
	name, fallback, derived, doc string
	enum                         []string
	bounds                       *interval
	required                     bool
	index                        int
}

var specsByType sync.Map // reflect.Type to []fieldSpec

// fieldsOf reads the tags of a section's struct. A tag that does not parse is our own bug.
func fieldsOf(t reflect.Type) []fieldSpec {
	if cached, ok := specsByType.Load(t); ok {
		return cached.([]fieldSpec)
	}
	var specs []fieldSpec
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name := tag.Get("yaml")
		if name == "" {
			continue
		}
		s := fieldSpec{
			name: name, fallback: tag.Get("default"), derived: tag.Get("derived"), doc: tag.Get("doc"),
			required: tag.Get("required") == "true", index: i,
		}
		if e := tag.Get("enum"); e != "" {
			s.enum = strings.Split(e, "|")
		}
		if r := tag.Get("range"); r != "" {
			b, err := parseInterval(r)
			if err != nil {
				panic(fmt.Sprintf("%s.%s: %v", t, t.Field(i).Name, err))
			}
			s.bounds = &b
		}
		specs = append(specs, s)
	}
	specsByType.Store(t, specs)
	return specs
}

func names(specs []fieldSpec) []string {
	var out []string
	for _, s := range specs {
		out = append(out, s.name)
	}
	return out
}

// fallbackNode is the default as the document would write it.
func (s fieldSpec) fallbackNode() *node {
	r := reader{source: "default"}
	n := r.read([]byte(s.fallback))
	if n == nil {
		panic(fmt.Sprintf("default of %s: %v", s.name, r.faults))
	}
	return n
}

// want says what may be written.
func (s fieldSpec) want(t reflect.Type) string {
	element := t
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
		element = t.Elem()
	}
	var what string
	switch {
	case len(s.enum) > 0:
		what = oneOf(s.enum)
	case element == reflect.TypeFor[Bytes]():
		what = "bytes, such as 1048576, 64KiB or 1.5GiB"
		if s.bounds != nil {
			what += fmt.Sprintf(", %s to %s", Bytes(s.bounds.lo), Bytes(s.bounds.hi))
		}
		return what
	case element.Kind() == reflect.Struct:
		what = "sections"
	case element.Kind() == reflect.String:
		what = "text (in quotes, if it looks like a number)"
	case element.Kind() == reflect.Bool:
		what = "true or false"
	case element.Kind() == reflect.Float64:
		what = "a number"
	default:
		what = "a whole number"
	}
	if s.bounds != nil {
		what += " " + s.bounds.String()
	}
	switch t.Kind() {
	case reflect.Slice:
		return "a list of " + what
	case reflect.Array:
		return fmt.Sprintf("a list of %d: each %s", t.Len(), what)
	}
	return what
}

func oneOf(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}

// interval is a range of numbers.
type interval struct {
	lo, hi         float64
	loOpen, hiOpen bool
}

func parseInterval(s string) (interval, error) {
	lo, hi, found := strings.Cut(s[1:len(s)-1], ",")
	if !found {
		return interval{}, fmt.Errorf("range %q: want [a,b]", s)
	}
	i := interval{loOpen: s[0] == '(', hiOpen: s[len(s)-1] == ')', hi: math.Inf(1)}
	var err error
	if i.lo, err = strconv.ParseFloat(lo, 64); err != nil {
		return i, err
	}
	if hi != "inf" {
		i.hi, err = strconv.ParseFloat(hi, 64)
	}
	return i, err
}

func (i interval) contains(x float64) bool {
	return (x > i.lo || x == i.lo && !i.loOpen) && (x < i.hi || x == i.hi && !i.hiOpen)
}

func (i interval) String() string {
	f := func(x float64) string {
		if x == math.Trunc(x) && math.Abs(x) < 1e16 {
			return strconv.FormatFloat(x, 'f', -1, 64)
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	lo, hi := "at least "+f(i.lo), "at most "+f(i.hi)
	if i.loOpen {
		lo = "above " + f(i.lo)
	}
	if i.hiOpen {
		hi = "below " + f(i.hi)
	}
	if math.IsInf(i.hi, 1) {
		return lo
	}
	return lo + " and " + hi
}
