package bounce

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

// shown is how many recipients the part for people spells out.
const shown = 50

// Write makes a notice: a whole message with CRLF line ends, none longer than
// 998 octets. utf8 reports whether its header holds characters beyond ASCII,
// so that it can travel by SMTPUTF8 only. Write reads the reported message
// through r.Open and is otherwise a pure function of r.
func Write(r *Report) (message []byte, utf8 bool) {
	w := &writer{r: r, global: r.UTF8 || !ascii(r.To)}
	for i := range r.Recipients {
		if !ascii(r.Recipients[i].Address) || !ascii(r.Recipients[i].Original) {
			w.global = true
		}
	}
	people, status := w.people(), w.status()
	room := w.limit() - len(people) - len(status) - 2<<10
	orig := w.original(room)
	b := w.boundary(people, status, orig.data)

	var out bytes.Buffer
	out.Grow(len(people) + len(status) + len(orig.data) + 2<<10)
	w.header(&out, b, orig, !ascii(people))
	part(&out, b, textType(people), "Notification", people)
	kind := "message/delivery-status"
	if w.global {
		kind = "message/global-delivery-status"
	}
	part(&out, b, kind, "Delivery report", status)
	if orig.kind != "" {
		part(&out, b, orig.kind, orig.title, orig.data)
	}
	fmt.Fprintf(&out, "--%s--\r\n", b)
	return out.Bytes(), !ascii(w.clean(r.To))
}

type writer struct {
	r      *Report
	global bool // RFC 6533: UTF-8 in the report parts
}

func (w *writer) limit() int {
	if w.r.Limit > 0 {
		return w.r.Limit
	}
	return DefaultLimit
}

func (w *writer) host() string {
	if h := domainOnly(w.r.Hostname); h != "" {
		return h
	}
	return "localhost"
}

func (w *writer) header(out *bytes.Buffer, boundary string, orig original, eight bool) {
	r := w.r
	fmt.Fprintf(out, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", w.host())
	fmt.Fprintf(out, "To: <%s>\r\n", w.clean(r.To))
	fmt.Fprintf(out, "Subject: %s\r\n", w.subject())
	fmt.Fprintf(out, "Date: %s\r\n", r.Now.Format(dateLayout))
	fmt.Fprintf(out, "Message-ID: <%s.%x.dsn@%s>\r\n", atom(r.ID), r.Now.UnixNano(), w.host())
	if orig.messageID != "" {
		// The notice shows up in the thread of the message it is about.
		fmt.Fprintf(out, "In-Reply-To: %s\r\nReferences: %s\r\n", orig.messageID, orig.messageID)
	}
	// RFC 3834 §5: so that no vacation programme answers.
	out.WriteString("Auto-Submitted: auto-replied\r\n")
	out.WriteString("MIME-Version: 1.0\r\n")
	fmt.Fprintf(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"\r\n", boundary)
	if orig.eight || w.global || eight {
		out.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	out.WriteString("\r\nThis is a MIME-encapsulated message.\r\n\r\n")
}

func (w *writer) subject() string {
	if s := w.ownSubject(); s != "" {
		return s
	}
	if s := oneLine(w.r.Subject, false); s != "" {
		return s
	}
	switch w.r.Kind {
	case Delay:
		return "Delayed mail (still being tried)"
	case Success:
		return "Successful mail delivery report"
	default:
		return "Undelivered mail returned to sender"
	}
}

// people writes the part that is for reading.
func (w *writer) people() []byte {
	var out bytes.Buffer
	r := w.r
	if s := r.Template.of(r.Kind); s != nil {
		return w.own(s)
	}
	fmt.Fprintf(&out, "This is the mail system at host %s.\r\n\r\n", w.host())
	switch r.Kind {
	case Failure:
		out.WriteString("Your message could not be delivered to the recipients below.\r\nIt will not be tried again.\r\n")
	case Delay:
		out.WriteString("Your message has not been delivered yet to the recipients below.\r\nYou need not send it again: ")
		if r.Until.IsZero() {
			out.WriteString("it will be tried further.\r\n")
		} else {
			fmt.Fprintf(&out, "it will be tried until\r\n%s.\r\n", r.Until.Format(dateLayout))
		}
	case Success:
		out.WriteString("Your message has reached the recipients below.\r\nThis is the report that you asked for.\r\n")
	}
	w.persons(&out)
	if r.ID != "" {
		fmt.Fprintf(&out, "\r\nThe message has the queue id %s. Please name it when you ask for help.\r\n", atom(r.ID))
	}
	return out.Bytes()
}

// persons lists the recipients, each behind an empty line.
func (w *writer) persons(out *bytes.Buffer) {
	r := w.r
	for i := range r.Recipients {
		if i == shown {
			fmt.Fprintf(out, "\r\nand %d more, listed in the report below.\r\n", len(r.Recipients)-shown)
			break
		}
		w.person(out, &r.Recipients[i])
	}
}

func (w *writer) person(out *bytes.Buffer, p *Recipient) {
	reply := w.clean(p.Reply)
	text := "<" + w.clean(p.Address) + ">: "
	switch {
	case p.Action == Delivered:
		text += "delivered"
	case p.Action == Expanded:
		text += "passed on to the members behind this address, which will not report any further"
	case p.Action == Relayed:
		text += "handed to " + w.via(p) + ", which will not report any further"
	case smtpReply(reply):
		text += "host " + w.via(p) + " said: " + reply
	case reply != "":
		text += reply
	default:
		text += "no reason is known"
	}
	if p.Expired {
		text += " (given up because it took too long)"
	}
	out.WriteString("\r\n")
	wrap(out, text)
}

func (w *writer) via(p *Recipient) string {
	if h := w.clean(p.Host); h != "" {
		return h
	}
	return "the next hop"
}

// status writes the part that is for programs, RFC 3464 §2.
func (w *writer) status() []byte {
	var out bytes.Buffer
	r := w.r
	fmt.Fprintf(&out, "Reporting-MTA: dns; %s\r\n", w.host())
	if id := w.clean(r.EnvID); id != "" {
		fmt.Fprintf(&out, "Original-Envelope-Id: %s\r\n", id)
	}
	if r.ID != "" {
		fmt.Fprintf(&out, "X-Queue-ID: %s\r\n", atom(r.ID))
	}
	dated(&out, "Arrival-Date", r.Arrived)
	for i := range r.Recipients {
		out.WriteString("\r\n")
		w.fields(&out, &r.Recipients[i])
	}
	return out.Bytes()
}

func (w *writer) fields(out *bytes.Buffer, p *Recipient) {
	if o := w.typed(p.Original); o != "" {
		fmt.Fprintf(out, "Original-Recipient: %s\r\n", o)
	}
	fmt.Fprintf(out, "Final-Recipient: %s\r\n", w.typed(p.Address))
	fmt.Fprintf(out, "Action: %s\r\n", p.Action)
	fmt.Fprintf(out, "Status: %s\r\n", status(p))
	reply := w.clean(p.Reply)
	if smtpReply(reply) {
		if name, _, _ := strings.Cut(p.Host, " "); domainOnly(name) != "" {
			fmt.Fprintf(out, "Remote-MTA: dns; %s\r\n", domainOnly(name))
		}
		fmt.Fprintf(out, "Diagnostic-Code: smtp; %s\r\n", reply)
	} else if reply != "" {
		// RFC 3464 §2.3.6: our own words are not an SMTP reply.
		fmt.Fprintf(out, "Diagnostic-Code: x-relay; %s\r\n", reply)
	}
	dated(out, "Last-Attempt-Date", p.Last)
	if p.Action == Delayed {
		dated(out, "Will-Retry-Until", w.r.Until)
	}
}

// typed puts an address type before an address that has none, and turns a
// UTF-8 address into the type of RFC 6533 §3.
func (w *writer) typed(a string) string {
	a = w.clean(a)
	kind, addr, ok := strings.Cut(a, ";")
	if !ok || kind == "" || strings.ContainsAny(kind, "@ \"<>:") {
		kind, addr = "rfc822", a
	}
	addr = strings.TrimSpace(addr)
	if addr == "" {
		return ""
	}
	if !ascii(addr) && strings.EqualFold(kind, "rfc822") {
		kind = "utf-8"
	}
	return kind + "; " + addr
}

// status gives the Status field of a recipient.
func status(p *Recipient) string {
	if Enhanced(p.Status) == p.Status && p.Status != "" {
		return p.Status
	}
	code := Enhanced(p.Reply)
	switch p.Action {
	case Delivered, Relayed, Expanded:
		if strings.HasPrefix(code, "2") {
			return code
		}
		return "2.0.0"
	case Delayed:
		if strings.HasPrefix(code, "4") {
			return code
		}
		return "4.0.0"
	}
	// RFC 3464 §2.3.4 lets a failure carry 4.x.x where time ran out.
	if p.Expired {
		return "4.4.7"
	}
	if strings.HasPrefix(code, "5") {
		return code
	}
	return "5.0.0"
}

func dated(out *bytes.Buffer, name string, t time.Time) {
	if !t.IsZero() {
		fmt.Fprintf(out, "%s: %s\r\n", name, t.Format(dateLayout))
	}
}

func part(out *bytes.Buffer, boundary, kind, title string, data []byte) {
	fmt.Fprintf(out, "--%s\r\nContent-Description: %s\r\nContent-Type: %s\r\n", boundary, title, kind)
	switch {
	case kind == headersQP:
		out.WriteString("Content-Transfer-Encoding: quoted-printable\r\n")
	case !ascii(data):
		out.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	out.WriteString("\r\n")
	out.Write(data)
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		out.WriteString("\r\n")
	}
	out.WriteString("\r\n")
}

func textType(data []byte) string {
	if ascii(data) {
		return "text/plain; charset=us-ascii"
	}
	return "text/plain; charset=utf-8"
}

// boundary makes a line that none of the parts contains. The time in it keeps
// the author of a returned message from guessing it; the loop keeps the promise.
func (w *writer) boundary(parts ...[]byte) string {
	for n := 0; ; n++ {
		b := fmt.Sprintf("=_%s.%x.%d", atom(w.r.ID), w.r.Now.UnixNano(), n)
		if len(b) > 70 {
			b = b[:2] + b[len(b)-68:]
		}
		hit := false
		for _, p := range parts {
			hit = hit || bytes.Contains(p, []byte("--"+b))
		}
		if !hit {
			return b
		}
	}
}
