package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// marionette is a connection to the remote control of Mozilla's programs: each
// message is JSON behind its length and a colon.
type marionette struct {
	conn net.Conn
	in   *bufio.Reader
	last int
}

// remoteError is what the program did not like. Dialog is the text of a dialog
// that was open, and is so no more: it was answered with its last choice.
type remoteError struct {
	Kind    string `json:"error"`
	Message string `json:"message"`
	Data    struct{ Text string }
}

func (e *remoteError) Error() string { return e.Kind + ": " + e.Message + " " + e.Data.Text }

// dialMarionette begins a session in which scripts run as the program's own.
func dialMarionette(ctx context.Context, port string) (*marionette, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	m := &marionette{conn: conn, in: bufio.NewReader(conn)}
	if _, err = m.read(); err == nil { // its greeting
		_, err = m.call("WebDriver:NewSession", map[string]any{})
	}
	if err == nil {
		_, err = m.call("Marionette:SetContext", map[string]any{"value": "chrome"})
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *marionette) read() ([]byte, error) {
	size, err := m.in.ReadString(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(size, ":"))
	if err != nil {
		return nil, err
	}
	data := make([]byte, n)
	_, err = io.ReadFull(m.in, data)
	return data, err
}

func (m *marionette) call(command string, params any) (json.RawMessage, error) {
	m.last++
	data, err := json.Marshal([]any{0, m.last, command, params})
	if err != nil {
		return nil, err
	}
	if _, err = fmt.Fprintf(m.conn, "%d:%s", len(data), data); err != nil {
		return nil, err
	}
	if data, err = m.read(); err != nil {
		return nil, err
	}
	var failed *remoteError
	var result json.RawMessage
	if err = json.Unmarshal(data, &[]any{new(int), new(int), &failed, &result}); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	return result, nil
}

// run has the program run the body of an asynchronous function, whose arguments
// are in args, and returns what that returns.
func (m *marionette) run(body string, args ...any) (string, error) {
	script := "const done = arguments[arguments.length - 1];" +
		"(async (args) => {" + body +
		"})([...arguments].slice(0, -1)).then(v => done(String(v)), e => done('failed: ' + e + ' ' + e.stack))"
	if args == nil {
		args = []any{}
	}
	data, err := m.call("WebDriver:ExecuteAsyncScript", map[string]any{"script": script, "args": args, "timeout": 60_000})
	if err != nil {
		return "", err
	}
	var result struct{ Value *string }
	if err = json.Unmarshal(data, &result); err != nil {
		return "", err
	}
	switch {
	case result.Value == nil: // a dialog came in between
		return "", m.dialog()
	case strings.HasPrefix(*result.Value, "failed: "):
		return "", fmt.Errorf("a script %s", *result.Value)
	}
	return *result.Value, nil
}

// dialog answers a dialog that is open with its last choice. The error is the
// dialog; nil: there was none.
func (m *marionette) dialog() error {
	_, err := m.call("WebDriver:GetTitle", map[string]any{})
	return err
}
