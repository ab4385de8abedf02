package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"time"
)

const maxURIs = 5 // of a record that get a report

// URIs finds where a domain wants its reports, mailto: and https: addresses, in the TXT records of _smtp._tls below it
// (RFC 8460 §3). None: it wants none.
func URIs(records []string) (all []string) {
	records = slices.DeleteFunc(slices.Clone(records), func(r string) bool {
		version, _, _ := strings.Cut(r, ";")
		return strings.TrimRight(version, " \t") != "v=TLSRPTv1"
	})
	if len(records) != 1 {
		return nil
	}
	for field := range strings.SplitSeq(records[0], ";") {
		key, list, _ := strings.Cut(strings.Trim(field, " \t"), "=")
		if strings.TrimRight(key, " \t") != "rua" {
			continue
		}
		for text := range strings.SplitSeq(list, ",") {
			text = strings.Trim(text, " \t")
			u, err := url.Parse(text)
			if err == nil && (u.Scheme == "mailto" || u.Scheme == "https" && u.Host != "") && len(all) < maxURIs {
				all = append(all, text)
			}
		}
	}
	return all
}

// Address is the mail address of a mailto: URI.
func Address(uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "mailto" {
		return "", fmt.Errorf("tlsrpt: %q is not a mailto: address", uri)
	}
	text, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return "", err
	}
	a, err := mail.ParseAddress(text)
	if err != nil || a.Address != text {
		return "", fmt.Errorf("tlsrpt: %q is not a mail address", text)
	}
	return text, nil
}

// Report is the report of a day on one domain.
type Report struct {
	Domain    string
	Day       time.Time // its beginning, UTC
	ID        string    // the same however often it is sent
	Submitter string    // the domain of the relay
	Contact   string    // a mail address there
	Counts    Counts
}

// Gzip is the report as application/tlsrpt+gzip.
func (r *Report) Gzip() ([]byte, error) {
	type span struct {
		Start string `json:"start-datetime"`
		End   string `json:"end-datetime"`
	}
	text, err := json.Marshal(struct {
		Organization string `json:"organization-name"`
		Span         span   `json:"date-range"`
		Contact      string `json:"contact-info"`
		ID           string `json:"report-id"`
		Counts       Counts `json:"policies"`
	}{r.Submitter, span{
		r.Day.UTC().Format(time.RFC3339), r.Day.UTC().Add(24*time.Hour - time.Second).Format(time.RFC3339),
	}, r.Contact, r.ID, r.Counts})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(text) // to memory
	err = w.Close()
	return b.Bytes(), err
}

// Mail is the report as a message to an address (RFC 8460 §5.3).
func (r *Report) Mail(to string, now time.Time) ([]byte, error) {
	packed, err := r.Gzip()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s!%s!%d!%d.json.gz", r.Submitter, r.Domain, r.Day.Unix(), r.Day.Unix()+24*3600-1)
	boundary := "report-" + r.ID[:min(len(r.ID), 40)]
	var b strings.Builder
	for _, line := range []string{
		"From: <" + r.Contact + ">", "To: <" + to + ">", "Date: " + now.Format(time.RFC1123Z),
		"Subject: Report Domain: " + r.Domain + " Submitter: " + r.Submitter + " Report-ID: <" + r.ID + ">",
		"Message-ID: <" + r.ID + "@" + r.Submitter + ">", "TLS-Report-Domain: " + r.Domain,
		"TLS-Report-Submitter: " + r.Submitter, "TLS-Required: No", "Auto-Submitted: auto-generated", "MIME-Version: 1.0",
		`Content-Type: multipart/report; report-type="tlsrpt"; boundary="` + boundary + `"`, "",
		"--" + boundary, "Content-Type: text/plain; charset=us-ascii", "",
		"This is an aggregate TLS report from " + r.Submitter, "",
		"--" + boundary, "Content-Type: application/tlsrpt+gzip", "Content-Transfer-Encoding: base64",
		`Content-Disposition: attachment; filename="` + name + `"`, "",
	} {
		b.WriteString(line + "\r\n")
	}
	for text := base64.StdEncoding.EncodeToString(packed); text != ""; {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	b.WriteString("--" + boundary + "--\r\n")
	return []byte(b.String()), nil
}
