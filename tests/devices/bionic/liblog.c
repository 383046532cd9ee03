/* Stand-in for Android's liblog.so: nobody reads the log. */
int __android_log_print(int priority, const char *tag, const char *format, ...) {
    (void)priority, (void)tag, (void)format;
    return 0;
}

int __android_log_vprint(int priority, const char *tag, const char *format, void *values) {
    (void)priority, (void)tag, (void)format, (void)values;
    return 0;
}

int __android_log_write(int priority, const char *tag, const char *text) {
    (void)priority, (void)tag, (void)text;
    return 0;
}
