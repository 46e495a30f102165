package main

import (
	"bufio"
	"encoding/json"
	"hash/fnv"
	"os"
	"path/filepath"
)

// evalOneIn is how many topics there are for each that is held out: 5 %.
const evalOneIn = 20

// split holds records out by their topic alone, so that the same question is in
// the same part whatever else a Go release documents.
func split(records []record) (train, eval []record) {
	for _, r := range records {
		h := fnv.New64a()
		h.Write([]byte(r.topic))
		if h.Sum64()>>32%evalOneIn == 0 {
			eval = append(eval, r)
		} else {
			train = append(train, r)
		}
	}
	return train, eval
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// write writes a whole file or none.
func write(file string, records []record) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "*.new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriter(f)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, r := range records {
		line := struct {
			Messages []message `json:"messages"`
		}{[]message{{"user", r.question}, {"assistant", r.answer}}}
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
