out.o: a.c \
 b.h dir/c\ d.h
b.h:
