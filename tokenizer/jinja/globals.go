package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// globals are the functions that a template can call by name.
var globals = map[string]any{
	"range":           &function{"range", rangeOf},
	"namespace":       &function{"namespace", newNamespace},
	"dict":            &function{"dict", newDict},
	"raise_exception": &function{"raise_exception", raise},
	"strftime_now":    &function{"strftime_now", strftimeNow},
}

func rangeOf(s *state, a args) (any, error) {
	from, to, step := int64(0), int64(0), int64(1)
	for i, v := range a.positional {
		n, ok := integer(v)
		if !ok || i > 2 {
			return nil, errors.New("range wants one to three integers")
		}
		switch {
		case i == 0:
			to = n
		case i == 1:
			from, to = to, n
		default:
			step = n
		}
	}
	if len(a.positional) == 0 || step == 0 {
		return nil, errors.New("range wants one to three integers, the last not 0")
	}
	l := &List{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if len(l.Items) >= maxRange {
			return nil, fmt.Errorf("range of more than %d", maxRange)
		}
		l.Items = append(l.Items, i)
		if step > 0 && i > i+step || step < 0 && i < i+step {
			break // beyond 64 bits
		}
	}
	return l, s.made(16 * len(l.Items))
}

// attributes makes a dictionary of a call's arguments, as Python's dict does.
func attributes(s *state, a args) (*Dict, error) {
	d := &Dict{}
	if len(a.positional) > 0 {
		switch v := a.positional[0].(type) {
		case *Dict:
			d.addAll(v)
		default:
			pairs, err := s.iterate(v)
			if err != nil {
				return nil, err
			}
			for _, p := range pairs {
				l, ok := p.(*List)
				if !ok || len(l.Items) != 2 {
					return nil, errors.New("want pairs of key and value")
				}
				if err := d.set(l.Items[0], l.Items[1]); err != nil {
					return nil, err
				}
			}
		}
	}
	d.addAll(&a.named)
	return d, s.made(64 * d.Len())
}

func newDict(s *state, a args) (any, error) { return attributes(s, a) }

func newNamespace(s *state, a args) (any, error) {
	d, err := attributes(s, a)
	if err != nil {
		return nil, err
	}
	return &namespace{attrs: *d}, nil
}

func raise(s *state, a args) (any, error) {
	text, err := s.str(a.get(0, "message", ""))
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s", ErrRaised, text)
}

func strftimeNow(s *state, a args) (any, error) {
	format, ok := a.get(0, "format", nil).(string)
	if !ok {
		return nil, errors.New("strftime_now wants a format")
	}
	if err := s.made(16 * len(format)); err != nil {
		return nil, err
	}
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'H': "15", 'I': "03", 'j': "002", 'm': "01", 'M': "04",
		'p': "PM", 'S': "05", 'y': "06", 'Y': "2006", 'z': "-0700", 'Z': "MST", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06",
		'e': "_2", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05", 'R': "15:04",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		plain := format[i] == '-' && i+1 < len(format) // %-d: without padding
		if plain {
			i++
		}
		layout, ok := layouts[format[i]]
		switch {
		case format[i] == '%':
			b.WriteByte('%')
		case format[i] == 'f':
			fmt.Fprintf(&b, "%06d", s.now.Nanosecond()/1000)
		case !ok:
			return nil, fmt.Errorf("strftime_now: %%%c is not supported", format[i])
		default:
			text := s.now.Format(layout)
			if plain {
				if text = strings.TrimLeft(text, "0 "); text == "" {
					text = "0"
				}
			}
			b.WriteString(text)
		}
	}
	return b.String(), nil
}
