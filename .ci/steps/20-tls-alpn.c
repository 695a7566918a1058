/* sslscan offers no ALPN, and a server that insists on one refuses it whatever else it says: it would find nothing
 * enabled and prove nothing. Loaded before it (LD_PRELOAD), this offers `spile/1` in its name: through OpenSSL, and in
 * the ClientHellos it makes by hand, where the extension goes to the end and three lengths grow by it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
int SSL_set_alpn_protos(SSL *, const unsigned char *, unsigned);

SSL *SSL_new(SSL_CTX *context) {
    SSL *(*real)(SSL_CTX *) = (SSL * (*)(SSL_CTX *)) dlsym(RTLD_NEXT, "SSL_new");
    SSL *ssl = real(context);
    if (ssl) SSL_set_alpn_protos(ssl, (const unsigned char *)"\7spile/1", 8);
    return ssl;
}

static const unsigned char ALPN[] = {0, 16, 0, 10, 0, 8, 7, 's', 'p', 'i', 'l', 'e', '/', '1'};

static void grow(unsigned char *at, int width) {
    unsigned long length = 0;
    for (int i = 0; i < width; i++) length = length << 8 | at[i];
    length += sizeof ALPN;
    for (int i = width; i-- > 0; length >>= 8) at[i] = length & 0xff;
}

/* Where the extensions' length stands in a record with a ClientHello, or 0. */
static size_t extensions(const unsigned char *record, size_t length) {
    if (length < 50 || record[0] != 22 || record[1] != 3 || record[5] != 1) return 0;
    size_t at = 9 + 2 + 32;
    at += 1 + record[at];
    if (at + 2 > length) return 0;
    at += 2 + (record[at] << 8 | record[at + 1]);
    if (at + 1 > length) return 0;
    at += 1 + record[at];
    return at + 2 > length ? 0 : at;
}

ssize_t send(int socket, const void *data, size_t length, int flags) {
    ssize_t (*real)(int, const void *, size_t, int) =
        (ssize_t(*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    size_t at = extensions(data, length);
    unsigned char *longer = at ? malloc(length + sizeof ALPN) : NULL;
    if (!longer) return real(socket, data, length, flags);
    memcpy(longer, data, length);
    memcpy(longer + length, ALPN, sizeof ALPN);
    grow(longer + 3, 2);
    grow(longer + 6, 3);
    grow(longer + at, 2);
    ssize_t sent = real(socket, longer, length + sizeof ALPN, flags);
    free(longer);
    return sent > (ssize_t)length ? (ssize_t)length : sent;
}
