// SPDX-License-Identifier: Apache-2.0

// Package clients drives a running server through the Go SDK of the original project.
//
// The scenarios state what applications of that SDK rely on. Calls that the SDK lacks, and facts that it hides
// (acknowledgements, fields that it does not read), are driven through the generated stubs of the API module.
package clients

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atomix/atomix/api/errors"
	runtimev1 "github.com/atomix/atomix/api/runtime/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/gogo/protobuf/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	addrsVariable   = "ATOMIX_TEST_ADDRS"
	controlVariable = "ATOMIX_TEST_CONTROL"
	storeVariable   = "ATOMIX_TEST_STORE"

	// The store that a server without configuration connects at its start.
	defaultStore = "memory"

	// A primitive created with this tag tells the SDK to mirror its whole content.
	mirrorTag = "cached"
	// A primitive created with this tag tells the SDK to keep the three entries used last.
	lruTag = "lru"

	// Every scenario is far below this on an idle machine.
	scenarioLimit = 20 * time.Second
	// A message that was already caused arrives in milliseconds. The rest is for a loaded machine.
	messageLimit = 5 * time.Second
	// How long a stream is watched before it counts as silent.
	silence = 150 * time.Millisecond
)

var (
	// The servers, and the control services of each of them. They work on one store.
	primitivesAddrs []string
	controlAddrs    []string
	storeName       string

	// How many clients each scenario has opened.
	opened sync.Map
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "the scenarios cannot run:", err)
		os.Exit(1)
	}
	// Scenarios mostly wait, so more of them fit a machine than it has cores.
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, "the scenarios cannot run:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare reads the environment and programs the routes that every scenario relies on.
func prepare() error {
	primitivesAddrs, controlAddrs = listed(addrsVariable), listed(controlVariable)
	if len(primitivesAddrs) == 0 || len(controlAddrs) != len(primitivesAddrs) {
		return fmt.Errorf("set %s to the host:port list of running servers and %s to that of their control services",
			addrsVariable, controlVariable)
	}
	storeName = os.Getenv(storeVariable)
	if storeName == "" {
		storeName = defaultStore
	}
	for _, addr := range controlAddrs {
		if err := program(addr); err != nil {
			return err
		}
	}
	return nil
}

// listed reads a comma-separated variable.
func listed(variable string) []string {
	var items []string
	for _, item := range strings.Split(os.Getenv(variable), ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// program gives a server the routes.
func program(controlAddr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := grpc.DialContext(ctx, controlAddr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithBlock())
	if err != nil {
		return fmt.Errorf("no control service: %s=%q: %w", controlVariable, controlAddr, err)
	}
	defer conn.Close()
	if _, err := runtimev1.NewRuntimeClient(conn).Program(ctx, testRoutes()); err != nil {
		return fmt.Errorf("routes refused: %w", err)
	}
	return nil
}

// testRoutes sends everything to the store, with a cache for tagged primitives.
func testRoutes() *runtimev1.ProgramRequest {
	return &runtimev1.ProgramRequest{
		Routes: []runtimev1.Route{{
			StoreID: runtimev1.StoreID{Name: storeName},
			Rules: []runtimev1.RoutingRule{
				{Names: []string{"*"}},
				{Names: []string{"*"}, Tags: []string{mirrorTag}, Config: jsonConfig(`{"cache":{"enabled":true}}`)},
				{Names: []string{"*"}, Tags: []string{lruTag}, Config: jsonConfig(`{"cache":{"enabled":true,"size":3}}`)},
			},
		}},
	}
}

// jsonConfig wraps JSON text the way the original controller does: an untyped Any.
func jsonConfig(text string) *types.Any {
	return &types.Any{Value: []byte(text)}
}

// begin starts a scenario: it runs beside the others and is limited in time.
//
// The limit ends the whole test binary, because a call of the SDK may outlive its context: it repeats a call that
// is answered UNAVAILABLE for up to 15 minutes and sleeps in between.
func begin(t *testing.T) context.Context {
	t.Helper()
	t.Parallel()
	name := t.Name()
	watchdog := time.AfterFunc(scenarioLimit, func() {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		fmt.Fprintf(os.Stderr, "--- FAIL: %s: not finished after %s; all goroutines:\n%s\n", name, scenarioLimit, stacks)
		os.Exit(1)
	})
	t.Cleanup(func() { watchdog.Stop() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}

// each runs a scenario without a cache, with a small one and with a mirror.
func each(t *testing.T, scenario func(t *testing.T, tags []string)) {
	for name, tags := range map[string][]string{
		"uncached": nil,
		"lru":      {lruTag},
		"mirror":   {mirrorTag},
	} {
		t.Run(name, func(t *testing.T) { scenario(t, tags) })
	}
}

// freshName returns a primitive name that no other run uses.
func freshName() string {
	return "go-" + uuid.New().String()
}

// nextAddr returns the server of the next client of a scenario: one of its own, as far as there are servers.
func nextAddr(t *testing.T) string {
	count, _ := opened.LoadOrStore(t.Name(), new(atomic.Int64))
	return primitivesAddrs[int(count.(*atomic.Int64).Add(1)-1)%len(primitivesAddrs)]
}

// open returns a client object of the SDK, that is one more connection, closed with the scenario.
func open(t *testing.T) *client.Client {
	t.Helper()
	host, portText, err := net.SplitHostPort(nextAddr(t))
	require.NoError(t, err)
	port, err := strconv.Atoi(portText)
	require.NoError(t, err)
	c := client.NewClient(client.WithHost(host), client.WithPort(port))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// dial returns a connection without the interceptors of the SDK: gRPC codes arrive as sent, nothing is repeated.
func dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return dialTo(t, nextAddr(t))
}

// dialControl returns a connection to the control services of a server.
func dialControl(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return dialTo(t, controlAddrs[0])
}

func dialTo(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.Dial(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// id names a primitive in a request of the stubs.
func id(name string) runtimev1.PrimitiveID {
	return runtimev1.PrimitiveID{Name: name}
}

// as checks the type of an event.
func as[E any](t *testing.T, event any) E {
	t.Helper()
	e, ok := event.(E)
	require.Truef(t, ok, "event of another type: expected=%T got=%T", e, event)
	return e
}

// ok checks that a call succeeded and returns its result.
func ok[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		require.NoError(t, err)
		return value
	}
}

func requireNotFound(t *testing.T, err error) {
	t.Helper()
	require.Truef(t, errors.IsNotFound(err), "expected NOT_FOUND, got %v", err)
}

func requireConflict(t *testing.T, err error) {
	t.Helper()
	require.Truef(t, errors.IsConflict(err), "expected ABORTED, got %v", err)
}

func requireAlreadyExists(t *testing.T, err error) {
	t.Helper()
	require.Truef(t, errors.IsAlreadyExists(err), "expected ALREADY_EXISTS, got %v", err)
}

func requireInvalid(t *testing.T, err error) {
	t.Helper()
	require.Truef(t, errors.IsInvalid(err), "expected INVALID_ARGUMENT, got %v", err)
}

// requireCode checks the code of a call through the stubs.
func requireCode(t *testing.T, expected codes.Code, err error) {
	t.Helper()
	require.Equalf(t, expected, status.Code(err), "answer: %v", err)
}

// soon waits until a condition holds, for what reaches a client by an event.
func soon(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, messageLimit, 5*time.Millisecond, what)
}

// source is any stream of the SDK.
type source[T any] interface {
	Next() (T, error)
}

// tape reads a stream in the background, so that a missing message is a failure and not a hang.
type tape[T any] struct {
	items chan T
	end   chan error
}

// record starts to read a stream.
func record[T any](s source[T]) *tape[T] {
	r := &tape[T]{items: make(chan T, 4096), end: make(chan error, 1)}
	go func() {
		for {
			item, err := s.Next()
			if err != nil {
				r.end <- err
				close(r.items)
				return
			}
			r.items <- item
		}
	}()
	return r
}

// next returns the next message.
func (r *tape[T]) next(t *testing.T) T {
	t.Helper()
	select {
	case item, ok := <-r.items:
		if !ok {
			require.FailNowf(t, "the stream ended, a message was expected", "end: %v", <-r.end)
		}
		return item
	case <-time.After(messageLimit):
		require.FailNowf(t, "no message on the stream", "waited %s", messageLimit)
	}
	panic("unreachable")
}

// rest returns what the stream still sends, and checks that it ends as the end of a stream.
func (r *tape[T]) rest(t *testing.T) []T {
	t.Helper()
	var items []T
	limit := time.After(messageLimit)
	for {
		select {
		case item, ok := <-r.items:
			if !ok {
				require.Equal(t, io.EOF, <-r.end)
				return items
			}
			items = append(items, item)
		case <-limit:
			require.FailNowf(t, "the stream did not end", "waited %s, messages so far: %v", messageLimit, items)
		}
	}
}

// quiet checks that the stream is open and sends nothing.
func (r *tape[T]) quiet(t *testing.T) {
	t.Helper()
	select {
	case item, ok := <-r.items:
		if ok {
			require.FailNowf(t, "a message too many", "%+v", item)
		}
		require.FailNowf(t, "the stream ended", "end: %v", <-r.end)
	case <-time.After(silence):
	}
}

// received adapts the Recv of a stub's stream.
type received[T any] func() (T, error)

// Next returns the next message.
func (f received[T]) Next() (T, error) { return f() }
