package checkpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/test/fetch"
)

// objectServer is a real object store's server, a process of its own, with one bucket.
type objectServer struct {
	addr  string
	where func(endpoint, prefix string) string
	given atomic.Int32 // prefixes
}

// store is an empty store in the bucket.
func (s *objectServer) store(t *testing.T) checkpoint.Store {
	t.Helper()
	return s.open(t, "http://"+s.addr)
}

func (s *objectServer) open(t *testing.T, endpoint string) *checkpoint.Blob {
	t.Helper()
	opened, err := checkpoint.OpenStore(ctx, s.where(endpoint, fmt.Sprintf("run-%d", s.given.Add(1))))
	if err != nil {
		t.Fatal(err)
	}
	b := opened.(*checkpoint.Blob)
	b.Hasten(t, 30*time.Second)
	return b
}

// faulty is an empty store with something between it and the server at which requests can be made to fail.
func (s *objectServer) faulty(t *testing.T) (*checkpoint.Blob, *s3Server) {
	t.Helper()
	proxy := &s3Server{s3: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: s.addr})
		r.Out.Host = r.In.Host // it is signed
	}}}
	proxy.Server = httptest.NewServer(proxy)
	t.Cleanup(proxy.Close)
	return s.open(t, proxy.URL), proxy
}

// startServer starts a program and waits until it answers on the address that args are told.
func startServer(t *testing.T, name string, args func(host, port string) []string, env ...string) *objectServer {
	t.Helper()
	program := fetch.Server(t, name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer // not to be read before the process has ended
	cmd := exec.Command(program, args(host, port)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.String())
		}
	})
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := http.Get("http://" + addr + "/")
		if err == nil {
			r.Body.Close()
			return &objectServer{addr: addr}
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("%s ended", name)
		case <-within.Done():
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

// startVersity starts an S3 server that keeps objects in a folder.
func startVersity(t *testing.T) *objectServer {
	t.Helper()
	root, meta := t.TempDir(), t.TempDir()
	s := startServer(t, "versitygw", func(host, port string) []string {
		return []string{"--port", host + ":" + port, "--access", "user", "--secret", "password", "--quiet", "posix", "--sidecar", meta, root}
	})
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "password",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		t.Setenv(k, v)
	}
	client := s3.New(s3.Options{BaseEndpoint: aws.String("http://" + s.addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider("user", "password", "")})
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("bucket")}); err != nil {
		t.Fatal(err)
	}
	s.where = func(endpoint, prefix string) string {
		return "s3://bucket/" + prefix + "?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(endpoint)
	}
	return s
}

// startGCS starts a server that stands in for Google Cloud Storage.
func startGCS(t *testing.T) *objectServer {
	t.Helper()
	s := startServer(t, "fake-gcs-server", func(host, port string) []string {
		return []string{"-scheme", "http", "-host", host, "-port", port, "-public-host", host + ":" + port, "-backend", "memory", "-log-level", "error"}
	})
	r, err := http.Post("http://"+s.addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name": "bucket"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("make a bucket: %s", r.Status)
	}
	t.Setenv("STORAGE_EMULATOR_HOST", s.addr)
	s.where = func(_, prefix string) string { return "gs://bucket/" + prefix }
	return s
}

// Azurite's one account, whose key is public.
const (
	azureAccount = "devstoreaccount1"
	azureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// startAzurite starts Azure's own emulator of its Blob Storage.
func startAzurite(t *testing.T) *objectServer {
	t.Helper()
	s := startServer(t, "azurite", func(host, port string) []string {
		return []string{"--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence", "--blobHost", host, "--blobPort", port}
	})
	for k, v := range map[string]string{"AZURE_STORAGE_ACCOUNT": azureAccount, "AZURE_STORAGE_KEY": azureKey} {
		t.Setenv(k, v)
	}
	credential, err := azblob.NewSharedKeyCredential(azureAccount, azureKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azblob.NewClientWithSharedKeyCredential("http://"+s.addr+"/"+azureAccount, credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateContainer(ctx, "bucket", nil); err != nil {
		t.Fatal(err)
	}
	s.where = func(_, prefix string) string { return "azblob://bucket/" + prefix + "?protocol=http&domain=" + s.addr }
	return s
}
