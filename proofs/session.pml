/*
 * Sessions, docs/protocol.md, sections 7 and 8, as a model that Spin searches to its last state:
 * a client and a server exchange messages while the network cuts connections, both are
 * killed, and the server forgets whom it waited for too long.  Asserted is what
 * docs/sessions.md promises:
 *
 *     once      no message reaches the other application twice, or before an older one
 *     kept      what was acknowledged is there after a kill, where there is a spool
 *     held      a server with a spool goes on with every session that a client knows of
 *     told      when nothing happens any more, each message has arrived, or its sender
 *               was told that it may not have (or has died, without a spool)
 *
 * A message is numbered by its session, and carries here which of its sender's it is.
 * proofs/run says what is compiled in: SPOOL_C and SPOOL_S (which side has a spool), how
 * much happens, and WITHOUT_..., which takes a rule out of the protocol.
 */

#ifndef N
#define N 3             /* messages of each side */
#endif
#ifndef CUTS
#define CUTS 2
#endif
#ifndef KILLS_C
#define KILLS_C 1
#endif
#ifndef KILLS_S
#define KILLS_S 1
#endif
#ifndef EXPIRIES
#define EXPIRIES 1      /* times that the server's patience ends */
#endif
#define CONNECTIONS (CUTS + KILLS_C + KILLS_S + EXPIRIES + 1)
#define ROOM 2          /* frames on their way, for each direction of a connection */

#define CLIENT 0
#define SERVER 1
#define OTHER(x) (1 - (x))

#ifdef SPOOL_C
#define SPOOLED_C true
#else
#define SPOOLED_C false
#endif
#ifdef SPOOL_S
#define SPOOLED_S true
#else
#define SPOOLED_S false
#endif
#define SPOOLED(x) ((x) == CLIENT -> SPOOLED_C : SPOOLED_S)

mtype = { HELLO, WELCOME, MESSAGE, ACK };

/*
 * One side.  "at" is the connection that carries it, 0 for none; "open" is it after the
 * WELCOME.  Counts are those of the session; "which" is which message has a number.
 */
typedef Side {
    byte at; bool open;
    byte session;           /* 0: none */
    byte which[N];
    byte count;             /* accepted from the application */
    byte sendable;          /* of these may leave: they are stored, if there is a spool */
    byte left;              /* of these have left over any connection */
    byte next;              /* the next one to leave over this connection */
    byte acked;             /* of these the other side has */
    byte received;          /* from the other side */
    byte kept;              /* of these may be acknowledged */
    byte announced;         /* of these have been, over this connection */
    byte waiting[N];        /* which messages came and are not kept: received - kept */
    /* what a spool has */
    byte dSession; byte dCount; byte dReceived; byte dAcked
};

Side side[2];
byte connections = 0;       /* made by the client so far */
byte sessions = 0;          /* named by the server so far */
byte cuts = CUTS; byte killsC = KILLS_C; byte killsS = KILLS_S; byte expiries = EXPIRIES;

/* What the applications know: a bit for each message of the side. */
byte arrived[2];            /* messages of the side that the other application has */
byte told[2];               /* of these the side was told that they may be lost */
byte newest[2];             /* 1 and the newest that arrived */
byte sent[2];               /* messages that the side has sent */

/* wire[2 * direction + connection % 2]: mtype, session or number, count or message */
chan wire[4] = [ROOM] of { mtype, byte, byte };
#define WIRE(to, connection) wire[2 * (to) + (connection) % 2]

byte m;                     /* scratch of atomic steps */

inline flush(queue) {
    do
    :: len(queue) > 0 -> queue ? _, _, _
    :: else -> break
    od
}

/* The application of the other side gets a message of side "from". */
inline deliver(from, message) {
    assert(message + 1 > newest[from]);         /* once, and in order */
    newest[from] = message + 1;
    arrived[from] = arrived[from] | (1 << message)
}

/* Of side x the messages of these numbers are told to be lost, as far as it knows. */
inline tell(x, first, last) {
    m = first;
    do
    :: m < last -> told[x] = told[x] | (1 << side[x].which[m]); m++
    :: else -> break
    od;
    m = 0
}

/* What side x does not count any more is of no use: zeroes make equal states equal. */
inline forget(x, first) {
    m = 0;
    do
    :: m < N ->
        side[x].waiting[m] = 0;
        if
        :: m >= first -> side[x].which[m] = 0
        :: else
        fi;
        m++
    :: else -> break
    od;
    m = 0
}

/* A session begins for side x with so many messages that it has accepted before. */
inline begin(x, name, accepted) {
    side[x].session = name;
    forget(x, accepted);
    side[x].count = accepted; side[x].sendable = 0; side[x].left = 0;
    side[x].next = 0; side[x].acked = 0;
    side[x].received = 0; side[x].kept = 0; side[x].announced = 0
}

/* All that side x has changed becomes durable, and what depends on it visible. */
inline commit(x) {
    do
    :: side[x].kept < side[x].received ->
        deliver(OTHER(x), side[x].waiting[side[x].kept]);
        side[x].waiting[side[x].kept] = 0;
        side[x].kept++
    :: else -> break
    od;
    side[x].sendable = side[x].count;
    side[x].dSession = side[x].session;
    side[x].dCount = side[x].count; side[x].dReceived = side[x].received;
    side[x].dAcked = side[x].acked
}

/* The transport under side x is gone. */
inline detach(x) {
    side[x].at = 0; side[x].open = false
}

/* Side x is carried by connection c, and goes on behind what the other side has. */
inline attach(x, c, has) {
    side[x].at = c; side[x].open = true;
#ifdef WITHOUT_GOING_BACK       /* begin behind what was acknowledged, not what is there */
    side[x].next = side[x].acked;
#else
    side[x].next = has;
#endif
    side[x].announced = 0
}

/* Side x gives its session up: what the other side may not have is told. */
inline lose(x) {
#ifndef WITHOUT_TELLING
    tell(x, side[x].acked, side[x].count);
#endif
    skip
}

/*
 * Side x is killed, and starts again.  What it has not stored is gone, and who sent it
 * with it: that counts as told.
 */
inline kill(x) {
    if
    :: !SPOOLED(x) ->
        tell(x, side[x].acked, side[x].count);
        begin(x, 0, 0)
    :: SPOOLED(x) ->
        if
        :: side[x].session == side[x].dSession ->
            tell(x, side[x].dCount, side[x].count)
        :: else ->
            tell(x, 0, side[x].count)
        fi;
        assert(side[x].dSession == 0 || side[OTHER(x)].session != side[x].dSession ||
               side[OTHER(x)].acked <= side[x].dReceived);      /* kept */
        side[x].session = side[x].dSession;
        side[x].count = side[x].dCount; side[x].sendable = side[x].dCount;
        side[x].acked = side[x].dAcked;
        side[x].received = side[x].dReceived; side[x].kept = side[x].dReceived;
        forget(x, side[x].dCount);
        if      /* it does not know how much has left */
        :: side[x].session != 0 -> side[x].left = side[x].dCount
        :: else -> side[x].left = 0
        fi
    fi;
    detach(x)
}

proctype Run(byte x) {
    byte a, b, c;
    do
    /* The application sends: a client at any time, a server to a session. */
    :: atomic {
        sent[x] < N && (x == CLIENT || side[x].session != 0) ->
        side[x].which[side[x].count] = sent[x];
        side[x].count++; sent[x]++;
        if
        :: !SPOOLED(x) -> side[x].sendable = side[x].count
#ifdef WITHOUT_STORING_FIRST    /* leave before it is stored */
        :: SPOOLED(x) -> side[x].sendable = side[x].count
#else
        :: SPOOLED(x) -> skip
#endif
        fi
    }

    /* A turn's commit. */
    :: atomic {
        SPOOLED(x) && (x == CLIENT || side[x].session != 0) &&
        (side[x].dSession != side[x].session || side[x].dCount != side[x].count ||
         side[x].dReceived != side[x].received) ->
        commit(x)
    }

    /* A message leaves. */
    :: atomic {
        side[x].open && side[x].next < side[x].sendable &&
        nfull(WIRE(OTHER(x), side[x].at)) ->
        WIRE(OTHER(x), side[x].at) ! MESSAGE,
            side[x].next, side[x].which[side[x].next];
        side[x].next++;
        if
        :: side[x].left < side[x].next -> side[x].left = side[x].next
        :: else
        fi
    }

    /* An acknowledgement leaves. */
    :: atomic {
#ifdef WITHOUT_KEEPING_FIRST    /* acknowledge what came, stored or not */
        side[x].open && side[x].announced < side[x].received &&
        nfull(WIRE(OTHER(x), side[x].at)) ->
        WIRE(OTHER(x), side[x].at) ! ACK, side[x].received, 0;
        side[x].announced = side[x].received
#else
        side[x].open && side[x].announced < side[x].kept &&
        nfull(WIRE(OTHER(x), side[x].at)) ->
        WIRE(OTHER(x), side[x].at) ! ACK, side[x].kept, 0;
        side[x].announced = side[x].kept
#endif
    }

    /* A message or acknowledgement comes over the connection that carries the side. */
    :: atomic {
        side[x].open && WIRE(x, side[x].at) ? [MESSAGE, _, _] ->
        WIRE(x, side[x].at) ? MESSAGE, a, b;
        a = 0;
        if
        :: SPOOLED(x) -> side[x].waiting[side[x].received] = b
        :: !SPOOLED(x) -> deliver(OTHER(x), b); side[x].kept++
        fi;
        side[x].received++;
        b = 0
    }
    :: atomic {
        side[x].open && WIRE(x, side[x].at) ? [ACK, _, _] ->
        WIRE(x, side[x].at) ? ACK, a, b;
        assert(a <= side[x].left);
        if
        :: a > side[x].acked -> side[x].acked = a
        :: else
        fi;
        a = 0; b = 0
    }

#ifdef WITHOUT_CLOSING_THE_OLD  /* the connection before is still read after a take-over */
    :: atomic {
        x == SERVER && side[x].open && side[x].at > 1 &&
        WIRE(x, side[x].at - 1) ? [MESSAGE, _, _] ->
        WIRE(x, side[x].at - 1) ? MESSAGE, a, b;
        a = 0;
        if
        :: SPOOLED(x) -> side[x].waiting[side[x].received] = b
        :: !SPOOLED(x) -> deliver(OTHER(x), b); side[x].kept++
        fi;
        side[x].received++;
        b = 0
    }
#endif

    /* The client connects, and asks to go on with its session. */
    :: atomic {
        x == CLIENT && side[x].at == 0 && connections < CONNECTIONS ->
        connections++;
        side[x].at = connections;
        if      /* of three connections the server sees at most two */
        :: side[SERVER].at != 0 && side[SERVER].at + 2 <= connections -> detach(SERVER)
        :: else
        fi;
        flush(WIRE(SERVER, connections)); flush(WIRE(CLIENT, connections));
        WIRE(SERVER, connections) ! HELLO, side[x].session, side[x].received
    }

    /* The server lets it in, whether it takes the connection before for alive or not. */
    :: atomic {
        x == SERVER && connections > 0 && side[SERVER].at != connections &&
        WIRE(SERVER, connections) ? [HELLO, _, _] ->
        WIRE(SERVER, connections) ? HELLO, a, b;
        c = connections;
#ifndef WITHOUT_CLOSING_THE_OLD
        if
        :: side[SERVER].at != 0 ->
            flush(WIRE(SERVER, side[SERVER].at)); flush(WIRE(CLIENT, side[SERVER].at))
        :: else
        fi;
#endif
        if
#ifdef WITHOUT_NAMES            /* go on with any session */
        :: side[SERVER].session != 0 ->
            attach(SERVER, c, b)
        :: side[SERVER].session == 0 ->
#else
        :: a != 0 && a == side[SERVER].session ->
            attach(SERVER, c, b)
        :: a == 0 || a != side[SERVER].session ->
#endif
            lose(SERVER);
            sessions++;
            begin(SERVER, sessions, 0);
            attach(SERVER, c, 0);
#ifndef WITHOUT_STORING_THE_SESSION     /* say WELCOME first */
            if
            :: SPOOLED(SERVER) -> commit(SERVER)
            :: !SPOOLED(SERVER)
            fi
#endif
        fi;
        WIRE(CLIENT, c) ! WELCOME, side[SERVER].session, side[SERVER].received;
        a = 0; b = 0; c = 0
    }
    :: atomic {
        x == CLIENT && side[x].at != 0 && !side[x].open &&
        WIRE(CLIENT, side[x].at) ? [WELCOME, _, _] ->
        WIRE(CLIENT, side[x].at) ? WELCOME, a, b;
        if
        :: side[x].session != 0 && a == side[x].session ->
            assert(b <= side[x].left);
            attach(CLIENT, side[x].at, b)
        :: side[x].session == 0 || a != side[x].session ->
            /* A server with a spool forgets nobody before its patience ends. */
            assert(side[x].session == 0 || !SPOOLED_S || expiries < EXPIRIES);
            /* What has left may have arrived; what has not goes into the new session. */
#ifndef WITHOUT_TELLING
            tell(CLIENT, side[x].acked, side[x].left);
#endif
            c = 0;
            do
            :: side[x].left + c < side[x].count ->
                side[x].which[c] = side[x].which[side[x].left + c]; c++
            :: else -> break
            od;
            begin(CLIENT, a, c);
            if
            :: !SPOOLED(CLIENT) -> side[x].sendable = c
            :: SPOOLED(CLIENT) -> skip
            fi;
            attach(CLIENT, side[x].at, 0)
        fi;
        a = 0; b = 0; c = 0
    }

    /* The server hears of the end of a connection, some time. */
    :: atomic {
        x == SERVER && side[x].at != 0 && side[x].at != side[CLIENT].at &&
        empty(WIRE(SERVER, side[x].at)) ->
        detach(SERVER)
    }

    /* A client that is alone goes: the server has closed, or was killed. */
    :: atomic {
        x == CLIENT && side[x].open && side[x].at != side[SERVER].at &&
        empty(WIRE(CLIENT, side[x].at)) ->
        detach(CLIENT)
    }
    od
}

/* What befalls them. */
proctype World() {
    do
    /* The client's connection is cut; the server may read what is on its way, or not. */
    :: atomic {
        cuts > 0 && side[CLIENT].at != 0 ->
        cuts--;
        if
        :: flush(WIRE(SERVER, side[CLIENT].at))
        :: skip
        fi;
        flush(WIRE(CLIENT, side[CLIENT].at));
        detach(CLIENT)
    }
    /* The server has waited long enough for a client that is away. */
    :: atomic {
        expiries > 0 && side[SERVER].at == 0 && side[SERVER].session != 0 ->
        expiries--;
        lose(SERVER);
        begin(SERVER, 0, 0);
        if
        :: SPOOLED_S -> commit(SERVER)
        :: !SPOOLED_S
        fi
    }
    /* What the client has sent may still be read. */
    :: atomic { killsC > 0 -> killsC--; kill(CLIENT) }
    :: atomic {
        killsS > 0 ->
        killsS--;
        kill(SERVER);
        if
        :: side[CLIENT].at != 0 ->
            flush(WIRE(SERVER, side[CLIENT].at)); flush(WIRE(CLIENT, side[CLIENT].at));
            detach(CLIENT)
        :: else
        fi
    }
    /* Nothing befalls them any more.  When nothing happens either, all is well: */
    :: atomic { cuts + killsC + killsS > 0 -> cuts = 0; killsC = 0; killsS = 0 }
    :: timeout ->
        assert((arrived[CLIENT] | told[CLIENT]) == (1 << sent[CLIENT]) - 1);
        assert((arrived[SERVER] | told[SERVER]) == (1 << sent[SERVER]) - 1);
        break
    od
}

init {
    atomic { run Run(CLIENT); run Run(SERVER); run World() }
}
