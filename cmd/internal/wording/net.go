package wording

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/textproto"
	"strings"
	"syscall"
)

// Net says in plain words why a connection failed.
func Net(err error) string {
	var name *net.DNSError
	var addr *net.AddrError
	var header tls.RecordHeaderError
	var protocol textproto.ProtocolError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.As(err, &name) && name.IsNotFound && name.Name != "" && !strings.Contains(name.Err, "port"):
		return "there is no host " + name.Name
	case errors.As(err, &name) && strings.Contains(name.Err, "port"), errors.As(err, &addr):
		return "that is not a host and a port"
	case errors.As(err, &name):
		return "the name " + name.Name + " can not be looked up now"
	case errors.As(err, &header):
		return "it does not speak TLS"
	case errors.As(err, &protocol):
		return "what answers there does not speak SMTP"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "there was no answer in time"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the network does not lead there"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), strings.HasSuffix(err.Error(), "server closed idle connection"): // net/http
		return "the other side closed the connection"
	}
	return Certificate(err)
}

// Certificate says what is wrong with a certificate, and of other errors what they
// say themselves.
func Certificate(err error) string {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &authority):
		return "its certificate is of an authority that this machine does not trust: --ca FILE names one"
	case errors.As(err, &host):
		return "its certificate is for another name"
	}
	return err.Error()
}
