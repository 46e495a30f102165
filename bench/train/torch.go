package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

//go:embed torch_step.py
var torchStep string

// torch is a Python process that computes steps on demand.
type torch struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Scanner
	versions struct{ Torch, Transformers string }
}

func startTorch(ctx context.Context, python string, threads int) (*torch, error) {
	config, err := json.Marshal(map[string]any{
		"vocab_size": smolLM2.Vocab, "hidden_size": smolLM2.Width, "num_hidden_layers": smolLM2.Layers,
		"num_attention_heads": smolLM2.Heads, "num_key_value_heads": smolLM2.KVHeads, "head_dim": smolLM2.HeadWidth,
		"intermediate_size": smolLM2.FeedForward, "rms_norm_eps": smolLM2.NormEps, "rope_theta": smolLM2.RopeTheta,
		"max_position_embeddings": smolLM2.MaxPositions, "tie_word_embeddings": smolLM2.Tied,
	})
	if err != nil {
		return nil, err
	}
	t := &torch{cmd: exec.CommandContext(ctx, python, "-c", torchStep, string(config), strconv.Itoa(threads))}
	t.cmd.Stderr = os.Stderr
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewScanner(out)
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start torch: %w", err)
	}
	if err := t.read(&t.versions); err != nil {
		return nil, errors.Join(fmt.Errorf("start torch: %w", err), t.close())
	}
	return t, nil
}

func (t *torch) read(v any) error {
	if !t.out.Scan() {
		return errors.Join(errors.New("torch gave no answer"), t.out.Err())
	}
	return json.Unmarshal(t.out.Bytes(), v)
}

// step has torch compute a step of the shape and returns its seconds.
func (t *torch) step(s shape) (float64, error) {
	request, err := json.Marshal(map[string]any{"sequences": s.sequences, "tokens": s.tokens, "precision": s.act.String()})
	if err != nil {
		return 0, err
	}
	if _, err := t.in.Write(append(request, '\n')); err != nil {
		return 0, fmt.Errorf("ask torch: %w", err)
	}
	var answer struct{ Seconds float64 }
	err = t.read(&answer)
	return answer.Seconds, err
}

// close ends the process and waits for it.
func (t *torch) close() error { return errors.Join(t.in.Close(), t.cmd.Wait()) }
